"""From the images of a protocol to the score of each pair, whatever computes the embeddings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.data.source import Source
from topoface.errors import UserError
from topoface.evaluation.images import Images, SourceImages
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.models.encoder import open_encoder

Embed = Callable[[NDArray[np.uint8]], NDArray[Any]]
Progress = Callable[[int, int], None]

# A pair of which an image failed scores outside the range of cosines, on the wrong side of every threshold.
FAILED_GENUINE, FAILED_IMPOSTOR = -2.0, 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class PairScores:
    """Scores of a protocol's pairs.

    Attributes:
        scores: float64 ``[m]``, cosines, or 2 / -2 where an image failed.
        failed: bool ``[m]``.
        failures: name of image and reason, for each that could not be read or embedded.
    """

    scores: NDArray[np.float64]
    failed: NDArray[np.bool_]
    failures: tuple[tuple[str, str], ...]


def score_pairs(
    embed: Embed,
    protocol: PairProtocol,
    *,
    flip: bool = True,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> PairScores:
    """Embed each image once and take the cosine of each pair.

    Args:
        embed: uint8 RGB ``[n, 112, 112, 3]`` to ``[n, D]``; of any length, rows are normalised here.
        protocol: what to judge on.
        flip: add the embedding of the mirrored image to that of the image, before normalising.
        batch_size: images in memory at a time.
        progress: called with images done and images in all.

    Raises:
        UserError: not a single image could be read and embedded.
    """
    units, failures = np.zeros((len(protocol.images), 0)), dict[int, str]()
    for places, rows in embed_images(
        embed, protocol.images, failures, flip=flip, batch_size=batch_size, progress=progress
    ):
        if not units.shape[1]:
            units = np.zeros((len(units), rows.shape[1]))
        units[places] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return score_units(units, failures, protocol)


def score_units(
    units: NDArray[np.float64], failures: Mapping[int, str], protocol: PairProtocol
) -> PairScores:
    """Cosines of the protocol's pairs from unit rows ``[n, D]``, one an image; reasons by position for those without one.

    Raises:
        UserError: no image has one.
    """
    if len(failures) == len(units):
        raise UserError(
            f"none of the {len(failures)} images can be judged; the first: {next(iter(failures.values()))}",
            protocol.uri,
            "check the images (aligned, 112 x 112) and the model",
        )
    left, right = protocol.pairs.T
    # One product of two rows a pair, in float64: a score does not depend on block size or thread count.
    scores = np.concatenate(
        [
            np.einsum("pd,pd->p", units[left[at : at + 8192]], units[right[at : at + 8192]])
            for at in range(0, len(left), 8192)
        ]
    )
    unusable = np.zeros(len(units), dtype=np.bool_)
    unusable[list(failures)] = True
    failed: NDArray[np.bool_] = unusable[left] | unusable[right]
    scores[failed] = np.where(protocol.same[failed], FAILED_GENUINE, FAILED_IMPOSTOR)
    return PairScores(
        scores=scores,
        failed=failed,
        failures=tuple((protocol.images.names[i], reason) for i, reason in sorted(failures.items())),
    )


def embed_images(
    embed: Embed,
    images: Images,
    failures: dict[int, str],
    *,
    flip: bool,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Positions ``[n]`` and embeddings ``[n, D]``, of any length, a batch at a time; and why some images have none.

    Args:
        embed: uint8 RGB ``[n, 112, 112, 3]`` to ``[n, D]``.
        images: what to embed, each once.
        failures: gets the reason for each position that does not come.
        flip: add the embedding of the mirrored image.
        batch_size: images in memory at a time.
        progress: called with images done and images in all.
    """
    for start in range(0, len(images), batch_size):
        places, faces = [], []
        for i in range(start, min(start + batch_size, len(images))):
            try:
                faces.append(images[i])
                places.append(i)
            except UserError as error:
                failures[i] = str(error)
        if faces:
            batch = np.stack(faces)
            rows = np.asarray(embed(batch), dtype=np.float64)
            if flip:
                rows = rows + np.asarray(embed(np.ascontiguousarray(batch[:, :, ::-1])), dtype=np.float64)
            if rows.ndim != 2 or len(rows) != len(faces):
                raise ValueError(f"embed gave {rows.shape} for {len(faces)} images; it must give [n, D]")
            usable = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
            failures |= {places[k]: "its embedding is zero or not finite" for k in np.flatnonzero(~usable)}
            yield np.array(places)[usable], rows[usable]
        if progress:
            progress(min(start + batch_size, len(images)), len(images))


def embed_source(
    model: str, source: Source, *, batch_size: int = 64, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Unit embeddings ``[len(source), D]`` of all images of a source, by a frozen encoder (see `open_encoder`).

    Raises:
        UserError: the model or an image cannot be read, or the model gives an image no finite embedding.
    """
    encode = open_encoder(model, fingerprint=source.fingerprint())
    images = SourceImages(source, range(len(source)))
    rows = []
    for start in range(0, len(source), batch_size):
        positions = np.arange(start, min(start + batch_size, len(source)))
        faces = torch.from_numpy(np.stack([images[int(i)] for i in positions])).permute(0, 3, 1, 2)
        made = encode(faces, torch.from_numpy(positions)).numpy()
        broken = np.flatnonzero(~(np.linalg.norm(made, axis=1) > 0.5))  # no direction: zero, or not finite
        if len(broken):
            raise UserError(
                f"gives no embedding of {source.describe(int(positions[broken[0]]))}",
                model,
                "check the model",
            )
        rows.append(made)
        if progress:
            progress(int(positions[-1]) + 1, len(source))
    return np.concatenate(rows)
