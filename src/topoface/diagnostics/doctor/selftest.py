"""Known figures on drawn faces: tells a broken installation from a broken model."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.data.synthetic import SyntheticSource, synthetic_pairs
from topoface.diagnostics.doctor.faults import pixel_hash
from topoface.diagnostics.doctor.network import Network
from topoface.diagnostics.doctor.report import Finding
from topoface.evaluation.embedding import score_pairs
from topoface.evaluation.images import SourceImages
from topoface.evaluation.pairs.protocol import PairProtocol, build_protocol
from topoface.evaluation.pairs.verification import judge
from topoface.functional.draws import generator
from topoface.functional.search import most_similar, prepare

PEOPLE, SHOTS, SEED = 16, 4, 17
# Computed by definition in tests/unit/diagnostics/test_doctor_selftest.py.
PIXEL_AUC, PIXEL_TOLERANCE = 0.7830, 0.005
PLANTED = {"accuracy": 45 / 48, "auc": 546 / 576, "eer": 3 / 24, "tar@0.1": 14 / 24}


def self_test() -> Finding:
    """Drawing, scores, figures, products and convolutions against what they are known to be."""
    checks: dict[str, Callable[[], str]] = {
        "products": _products,
        "convolution": _convolution,
        "search": _search,
        "scores of pixels": _pixels,
        "planted features": _planted,
    }
    start = time.perf_counter()
    wrong = {name: what for name, check in checks.items() if (what := check())}
    seconds = time.perf_counter() - start
    return Finding(
        check="installation",
        level="wrong" if wrong else "ok",
        text=(
            "known figures come out wrong, so nothing below can be trusted: "
            + "; ".join(f"{name}: {what}" for name, what in wrong.items())
            if wrong
            else f"{len(checks)} known figures on drawn faces come out right: {', '.join(checks)}"
        ),
        figures={"wrong": wrong, "seconds": round(seconds, 3)},
    )


def network_test(network: Network) -> Finding:
    """Whether the network gives a face one embedding: finite, the same again, and the same alone as among others."""
    images = drawn().images
    faces = np.stack([images[i] for i in range(8)])
    together, again = (network.embed(faces, network.declared) for _ in range(2))
    alone = np.concatenate([network.embed(faces[i : i + 1], network.declared) for i in range(4)])
    empty = int((np.linalg.norm(together, axis=1) < 0.5).sum())
    off = float(np.abs(together[:4] - alone).max())
    wrong = []
    if empty:
        wrong.append(f"{empty} of 8 drawn faces get no finite embedding")
    if not np.allclose(together, again, atol=1e-4):
        wrong.append("the same faces get another embedding when they come again")
    if off > 1e-2:
        wrong.append(f"a face alone and among others differs by {off:.3f}: batch statistics in use?")
    wrong += network.limits
    text = "; ".join(wrong) or f"one embedding of {together.shape[1]} a face, alone or among others"
    return Finding(
        check="network", level="wrong" if wrong else "ok", text=text, figures={"alone_against_batch": off}
    )


@cache
def drawn() -> PairProtocol:
    """The drawn pairs that the figures are known of: 4 folds of 6 genuine and 6 impostor pairs."""
    source = SyntheticSource(PEOPLE, SHOTS, seed=SEED)
    pairs, same, folds = synthetic_pairs(source, 12, 4, seed=SEED)
    return build_protocol(
        name="self-test",
        uri=source.uri,
        images=SourceImages(source, range(len(source))),
        pairs=pairs,
        same=same,
        folds=folds,
        people=source.labels.tolist(),
        stamps=[],
    )


def _products() -> str:
    """Products of whole numbers are exact in any precision that they fit in."""
    rng = generator(SEED, "self-test products")
    left, right = rng.integers(-15, 16, (96, 130)), rng.integers(-15, 16, (130, 70))
    exact = np.einsum("nk,km->nm", left, right)  # integers: no BLAS
    for kind in (np.float32, np.float64):
        a: NDArray[Any] = left.astype(kind)
        b: NDArray[Any] = right.astype(kind)
        for name, made in (("NumPy", a @ b), ("torch", (torch.from_numpy(a) @ torch.from_numpy(b)).numpy())):
            if not np.array_equal(made, exact):
                return f"{name}'s {np.dtype(kind).name} product of whole numbers is off by {np.abs(made - exact).max():g}"
    return ""


def _convolution() -> str:
    rng = generator(SEED, "self-test convolution")
    image, kernel = rng.integers(0, 256, (3, 20, 20)), rng.integers(-8, 9, (16, 3, 3, 3))
    exact = sum(
        np.einsum("ok,kyx->oyx", kernel[:, :, dy, dx], image[:, dy : dy + 18, dx : dx + 18])
        for dy in range(3)
        for dx in range(3)
    )
    inputs, weights = (torch.from_numpy(part).float() for part in (image[None], kernel))
    for layout in (torch.contiguous_format, torch.channels_last):
        made = torch.nn.functional.conv2d(inputs.contiguous(memory_format=layout), weights)[0].numpy()
        off = float(np.abs(made - exact).max())
        if not off <= 0.05:  # sums below 2^24 in float32; fast algorithms round
            return f"torch's convolution of whole numbers is off by {off:g}"
    return ""


def _search() -> str:
    rows = generator(SEED, "self-test search").standard_normal((300, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) * np.float32(1.000001)
    places, cosines = most_similar(rows, prepare(rows), 2)
    if not np.array_equal(places[:, 0], np.arange(300)) or np.abs(cosines[:, 0] - 1).max() > 1e-5:
        return "a row is not its own nearest one with cosine 1"
    every = np.einsum("nd,md->nm", rows.astype(np.float64), rows.astype(np.float64))
    np.fill_diagonal(every, -2)
    return (
        "" if np.array_equal(places[:, 1], every.argmax(axis=1)) else "the second nearest row is another one"
    )


def _pixels() -> str:
    """An embedder that is the pixels."""
    protocol = drawn()
    scored = score_pairs(pixels_less_grey, protocol, flip=False)
    found = judge(scored, protocol, flip=False, bootstrap=0).auc.value
    if not abs(found - PIXEL_AUC) <= PIXEL_TOLERANCE:
        return f"AUC is {found:.4f}, not {PIXEL_AUC:.4f}"
    face = protocol.images[0][None]
    rows = pixels_less_grey(np.concatenate([face, face]))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = float(np.einsum("d,d->", *rows))
    return "" if abs(cosine - 1) < 1e-12 else f"one image twice has cosine {cosine!r}"


def _planted() -> str:
    """Features that give known errors, through images, scores and figures."""
    protocol = drawn()
    table = {pixel_hash(protocol.images[i]): row for i, row in enumerate(planted_rows())}

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.stack([table[pixel_hash(face)] for face in faces])

    result = judge(score_pairs(embed, protocol, flip=False), protocol, flip=False, bootstrap=0)
    found = result.summary()
    off = [
        f"{name} {found[name]:.6f}, not {known:.6f}"
        for name, known in PLANTED.items()
        if abs(found[name] - known) > 1e-9
    ]
    return ", ".join(off)


def pixels_less_grey(faces: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Pixels minus 127.5, ``[n, 112 * 112 * 3]``."""
    return faces.reshape(len(faces), -1).astype(np.float64) - 127.5


def planted_rows() -> NDArray[np.float64]:
    """A direction for each drawn face: each person's own axis, and every fourth picture leans to the next person's."""
    rows = np.zeros((PEOPLE * SHOTS, PEOPLE))
    for image in range(len(rows)):
        person, shot = divmod(image, SHOTS)
        rows[image, person] = 1.0
        rows[image, (person + 1) % PEOPLE] = 3.0 if shot == SHOTS - 1 else 0.1 * shot
    return rows
