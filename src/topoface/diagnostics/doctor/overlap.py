"""Images of the test set among the training images: the same pixels, and embeddings nearer than chance brings them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topoface.data.source import Source
from topoface.diagnostics.doctor.faults import pixel_hash
from topoface.diagnostics.doctor.network import Contract, Network
from topoface.diagnostics.doctor.report import Finding, some
from topoface.errors import UserError
from topoface.evaluation.images import Images, SourceImages
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.functional.search import most_similar, prepare

Rows = NDArray[np.float32]
Progress = Callable[[int, int], None]
BATCH = 64
TAIL = 2000  # most similar pairs of different people that show how fast such pairs become rare
ALMOST_ONE = 1 - 1e-12
COPY = 0.98  # what a copy of an image that was stored anew reaches, about; a bar above it tells nothing
BY_CHANCE = 0.05  # pairs that may lie above the threshold by chance, expected


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Above which cosine a test and a training image are hardly two people.

    Attributes:
        cosine: expected above it: ``BY_CHANCE`` pairs of different people in all comparisons.
        highest: of two different people in the test set.
        comparisons: of test with training images.
    """

    cosine: float
    highest: float
    comparisons: int


def train_overlap(
    network: Network,
    contract: Contract,
    protocol: PairProtocol,
    train: Source,
    progress: tuple[Progress | None, Progress | None] = (None, None),
) -> list[Finding]:
    """Compare every test image with every training image.

    Args:
        network: embeds both.
        contract: how it is fed.
        protocol: the test images.
        train: the training images.
        progress: of the test images and of the training images, called with images done and images in all.
    """
    tests, test_hashes, test_places = _embed(network, contract, protocol.images, progress[0])
    trains, train_hashes, train_places = _embed(
        network, contract, SourceImages(train, range(len(train))), progress[1]
    )
    names = protocol.images.names
    first = dict(zip(reversed(train_hashes), reversed(train_places), strict=True))
    equal = [
        f"{names[place]} = {train.describe(first[digest])}"
        for digest, place in zip(test_hashes, test_places, strict=True)
        if digest in first
    ]
    unread = len(train) - len(train_places)
    left_out = f" ({unread:,} training images cannot be read)" if unread else ""
    pixels = Finding(
        check="train: same pixels",
        level="wrong" if equal else "ok",
        text=(
            f"{len(equal):,} of {len(test_places):,} test images are training images, too: {some(equal)}{left_out}"
            if equal
            else f"no test image is among {len(train_places):,} training images{left_out}"
        ),
        figures={"count": len(equal), "examples": equal[:100], "unreadable": unread},
    )
    bar = calibrate(tests, protocol.identities[test_places], len(trains))
    nearest, cosines = (found[:, 0] for found in most_similar(tests, prepare(trains), 1))
    order = np.argsort(-cosines, kind="stable")
    top = [
        f"{names[test_places[i]]} ~ {train.describe(train_places[nearest[i]])} ({cosines[i]:.3f})"
        for i in order
        if test_hashes[i] not in first
    ][:5]
    above = int((cosines > bar.cosine).sum())
    figures = {**vars(bar), "above": above, "expected_by_chance": BY_CHANCE, "nearest": top}
    if bar.cosine > COPY:
        text = f"this model cannot tell: different people reach a cosine of {bar.highest:.3f} in the test set itself"
        return [pixels, Finding(check="train: embeddings", level="note", text=text, figures=figures)]
    text = (
        f"{above:,} test images have a training image above {bar.cosine:.3f}, where {BY_CHANCE:g} are expected by chance "
        f"(different test people reach {bar.highest:.3f}){': the same people, or copies' if above else ''}; "
        f"nearest{' of other pixels' if equal else ''}: {'; '.join(top[: 5 if above else 1])}"
    )
    return [
        pixels,
        Finding(check="train: embeddings", level="wrong" if above else "ok", text=text, figures=figures),
    ]


def calibrate(units: Rows, people: NDArray[np.int64], others: int) -> Bar:
    """The bar from the most similar test images of different people.

    Of random directions, as many as (1 - c^2)^k lie above a cosine c: -log(1 - c^2) has an exponential tail. The rate k is that of the
    ``TAIL`` highest cosines of different people, taken from their median, which a few wrong labels do not move.

    Args:
        units: unit rows ``[n, D]`` of the test images.
        people: int64 ``[n]``.
        others: training images, each of which is compared with each test image.
    """
    best = np.empty(0, np.float32)
    pairs = 0
    for at in range(0, len(units), 512):
        product = units[at : at + 512] @ units[at:].T
        rows = np.arange(len(product))[:, None]
        apart = (people[at : at + 512, None] != people[None, at:]) & (np.arange(product.shape[1]) > rows)
        found = product[apart]
        pairs += len(found)
        best = np.concatenate([best, found])
        if len(best) > TAIL:
            best = np.partition(best, len(best) - TAIL)[-TAIL:]
    size = min(max(pairs // 200, 50), TAIL, len(best))
    tail = np.sort(best.astype(np.float64))[-size:]
    heights = -np.log1p(-(np.clip(tail, 0.0, ALMOST_ONE) ** 2))
    fall = max(float(np.median(heights) - heights[0]), 1e-6) / math.log(2)
    comparisons = len(units) * others
    expected = size * comparisons / pairs
    height = heights[0] + fall * max(math.log(expected / BY_CHANCE), 0.0)
    return Bar(cosine=math.sqrt(-math.expm1(-height)), highest=float(tail[-1]), comparisons=comparisons)


def _embed(
    network: Network, contract: Contract, images: Images, progress: Progress | None
) -> tuple[Rows, list[bytes], list[int]]:
    """Unit rows, hashes of pixels and positions of all images that can be read."""
    rows, hashes, places = [], [], []
    for at in range(0, len(images), BATCH):
        faces = []
        for i in range(at, min(at + BATCH, len(images))):
            try:
                faces.append(images[i])
            except UserError:
                continue
            hashes.append(pixel_hash(faces[-1]))
            places.append(i)
        if faces:
            rows.append(network.embed(np.stack(faces), contract).astype(np.float32))
        if progress:
            progress(min(at + BATCH, len(images)), len(images))
    if not rows:
        raise UserError("holds no image that can be used", "--train", "give aligned faces of 112 x 112")
    return np.concatenate(rows), hashes, places
