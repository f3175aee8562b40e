"""One pass of a frozen encoder over a source: class sums, which is all that code vectors need of the images."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.codes.statistics import ClassSums
from topoface.data.decode import FACE_SHAPE
from topoface.data.source import Source
from topoface.errors import UserError
from topoface.functional.draws import generator
from topoface.models.encoder import Encode

_BATCH = 64


def class_sums(
    source: Source,
    encode: Encode,
    *,
    max_images: int | None,
    only: NDArray[np.bool_] | None = None,
    looks: bool = True,
    seed: int,
    where: str,
    progress: Callable[[int, int], None] | None = None,
) -> ClassSums:
    """Sums over the unit embeddings of each label's images, every image averaged with its mirror image.

    Args:
        source: labelled faces.
        encode: the frozen encoder.
        max_images: of one identity, drawn by its name: the error of a mean falls with 1/n, the cost grows with n. None takes all.
        only: ``[identities]``, labels to look at; None looks at all.
        looks: whether the encoder looks at the images: what is stored goes by their positions, and none is read.
        seed: of that choice.
        where: names the encoder, for the message.
        progress: called with images done and in all.

    Raises:
        UserError: an image cannot be read, or gets no finite embedding.
    """
    labels = np.asarray(source.labels)
    chosen = _chosen(source, labels, max_images, seed)
    positions = np.flatnonzero(chosen if only is None else chosen & only[labels])
    found: ClassSums | None = None
    for places, rows in _encoded(source, encode, positions, looks):
        found = found or ClassSums.empty(source.identities, rows.shape[1])
        broken = np.flatnonzero(~(np.linalg.norm(rows, axis=1) > 0.5))  # no direction: zero, or not finite
        if len(broken):
            named = source.describe(int(places[broken[0]]))
            raise UserError(f"gives no embedding of {named}", where, "check the encoder and this image")
        found.add(rows, labels[places])
        if progress:
            progress(int(np.searchsorted(positions, places[-1])) + 1, len(positions))
    if found is None:
        raise UserError("has no images", source.uri, "give a source with images")
    return found


def _chosen(
    source: Source, labels: NDArray[np.int64], max_images: int | None, seed: int
) -> NDArray[np.bool_]:
    """Bool ``[images]``: at most so many of each label."""
    chosen = np.ones(len(labels), np.bool_)
    if max_images is None:
        return chosen
    counts = np.bincount(labels, minlength=source.identities)
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(counts)
    names = source.names  # once: a source may make them anew each time
    for label in np.flatnonzero(counts > max_images):
        own = order[ends[label] - counts[label] : ends[label]]
        name = names[int(label)].encode("utf-8", "surrogateescape")
        key = int.from_bytes(hashlib.sha256(name).digest()[:8])
        chosen[generator(seed, "code images", key).permutation(own)[max_images:]] = False
    return chosen


def _encoded(
    source: Source, encode: Encode, positions: NDArray[np.int64], looks: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    faces = np.empty((_BATCH if looks else 0, *FACE_SHAPE), np.uint8)
    for start in range(0, len(positions), _BATCH):
        places = positions[start : start + _BATCH]
        if looks:
            for row, place in enumerate(places):
                source.read_into(int(place), faces[row])
        images = torch.from_numpy(faces[: len(places)]).permute(0, 3, 1, 2)
        indices = torch.from_numpy(places)
        rows = encode(images, indices)
        if looks:
            rows = rows + encode(images.flip(3), indices)
        yield places, torch.nn.functional.normalize(rows).numpy()
