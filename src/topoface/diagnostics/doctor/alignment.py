"""Whether faces lie where a model wants them: shifted and scaled crops, symmetry, and what mirror images do."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.diagnostics.doctor.contracts import Floats, Progress, Sample, Trial, figures_of, try_each
from topoface.diagnostics.doctor.network import Contract, Network
from topoface.diagnostics.doctor.report import Finding, Level
from topoface.diagnostics.doctor.separation import Gain, gain
from topoface.errors import UserError

ELSEWHERE = "the faces do not lie where the model wants them"
SIDEWAYS = 8  # pixels
_AT_ONCE = 256  # faces moved together, as floating point numbers
MORE_ALIKE, SURE = 0.003, 4.0  # a gain in cosine that is believed: how large, and in standard errors


def moved(
    faces: NDArray[np.uint8], *, right: float = 0, down: float = 0, zoom: float = 1, wide: float = 1
) -> NDArray[np.float32]:
    """What the crop shows, moved by pixels or enlarged about its middle; bilinear, the edge repeated outside.

    Args:
        faces: uint8 ``[n, 112, 112, 3]``.
        right: pixels.
        down: pixels.
        zoom: above 1 the face becomes larger.
        wide: above 1 it becomes wider alone.
    """
    half = faces.shape[1] / 2
    pixels = torch.from_numpy(faces).permute(0, 3, 1, 2).float()
    back = torch.tensor(
        [[1 / (zoom * wide), 0, -right / half / (zoom * wide)], [0, 1 / zoom, -down / half / zoom]]
    )
    grid = torch.nn.functional.affine_grid(
        back.expand(1, 2, 3), [1, 1, *faces.shape[1:3]], align_corners=False
    )
    made = torch.nn.functional.grid_sample(
        pixels, grid.expand(len(faces), -1, -1, -1), padding_mode="border", align_corners=False
    )
    result: NDArray[np.float32] = made.permute(0, 2, 3, 1).numpy()
    return result


CROPS: dict[str, dict[str, float]] = {
    "8 px to the right (what the 96 x 112 template lacks)": {"right": 8},
    "8 px to the left": {"right": -8},
    "8 px down": {"down": 8},
    "8 px up": {"down": -8},
    "4 px down": {"down": 4},
    "4 px up": {"down": -4},
    "enlarged by 1.1": {"zoom": 1.1},
    "enlarged by 1.25": {"zoom": 1.25},
    "shrunk to 0.9": {"zoom": 0.9},
    "shrunk to 0.8": {"zoom": 0.8},
    "squeezed to 96 / 112 of the width (a 96 x 112 crop that was stretched)": {"wide": 96 / 112},
    "stretched to 112 / 96 of the width": {"wide": 112 / 96},
}


def examine_alignment(
    network: Network,
    contract: Contract,
    sample: Sample,
    progress: Progress | None = None,
    *,
    others: Callable[[], Sample] | None = None,
) -> list[Finding]:
    """Whether the model would see people better if the faces lay elsewhere; and what a mirror image does.

    A face that is a seventh too wide costs a model a twentieth of d', which a few hundred pairs do not tell from chance among so many
    crops. So the one crop that looks best, if it looks better at all, is tried once more, on pairs that had no part in choosing it.

    Args:
        network: to be fed.
        contract: how.
        sample: to judge by.
        progress: called with images done and images in all.
        others: draws pairs that are not in the sample; UserError where there are too few.
    """
    rounds = itertools.count(1)

    def embedded(faces: NDArray[Any]) -> Floats:
        units = network.embed(faces, contract)
        done = next(rounds)
        if progress:
            progress(done * len(faces), (len(CROPS) + 4) * len(faces))
        return units

    plain, mirrored = embedded(sample.faces), embedded(_mirror(sample.faces))
    scores, likeness = {"as given": sample.score(plain)}, {"as given": _cosines(plain, mirrored)}
    for name, change in CROPS.items():
        crops = moved(sample.faces, **change)
        units = embedded(crops)
        scores[name] = sample.score(units)
        if abs(change.get("right", 0)) == SIDEWAYS:
            likeness[name] = _cosines(units, embedded(_mirror(crops)))
    trials = try_each(scores, sample.known)
    best = max(trials[1:], key=lambda trial: trial.separation)
    again = None
    if others and best.over_first.value > 0 and not any(trial.over_first.real for trial in trials[1:]):
        again = _second_look(network, contract, best.name, others)
    return [
        _crop_finding(trials, again),
        _symmetry_finding(likeness),
        _mirror_finding(sample, plain, mirrored),
    ]


@dataclass(frozen=True, kw_only=True)
class _SecondLook:
    """At one crop, on so many other pairs."""

    gain: Gain
    pairs: int


def _second_look(
    network: Network, contract: Contract, name: str, others: Callable[[], Sample]
) -> _SecondLook | None:
    """None where there are not enough other pairs."""
    try:
        sample = others()
    except UserError:
        return None

    def score(change: dict[str, float]) -> Floats:
        parts = [sample.faces[at : at + _AT_ONCE] for at in range(0, len(sample.faces), _AT_ONCE)]
        return sample.score(
            np.concatenate([network.embed(moved(p, **change) if change else p, contract) for p in parts])
        )

    more = gain(score(CROPS[name]), score({}), sample.known, comparisons=1)
    return _SecondLook(gain=more, pairs=len(sample.pairs))


def _crop_finding(trials: list[Trial], again: _SecondLook | None) -> Finding:
    first, *others = trials
    better = sorted((t for t in others if t.over_first.real), key=lambda t: -t.separation)
    best = max(others, key=lambda t: t.separation)
    figures: dict[str, object] = {"trials": [figures_of(trial) for trial in trials]}
    if again:
        figures["second_look"] = {"way": best.name, "pairs": again.pairs, **vars(again.gain)}
    level: Level = "ok"
    if better:
        level, text = "wrong", f"{ELSEWHERE}: {better[0].name}: d' {better[0].over_first}"
        text += "".join(f"; {t.name}: {t.over_first}" for t in better[1:3])
    elif again is not None and again.gain.low > 0:
        little = "" if again.gain.real else ", which is little"
        level = "wrong" if again.gain.real else "note"
        text = (
            f"{ELSEWHERE}: {best.name}: d' {again.gain}{little}, on {again.pairs:,} pairs that had no part in choosing "
            f"this crop ({best.over_first} on the first)"
        )
    else:
        text = (
            f"none of {len(others)} shifted or scaled crops is better beyond chance than the images as given "
            f"(d' {first.separation:.2f}; nearest: {best.name}: {best.over_first}"
            + (f", on {again.pairs:,} other pairs {again.gain})" if again else ")")
        )
    if level != "ok":
        text += ". Align them to the ArcFace template"
    return Finding(check="alignment", level=level, text=text, figures=figures)


def _symmetry_finding(likeness: dict[str, Floats]) -> Finding:
    """A face and its mirror image are most alike where its middle is that of the image, whoever it is."""
    first, *others = likeness
    means = {name: float(values.mean()) for name, values in likeness.items()}
    off = []
    for name in others:
        more = likeness[name] - likeness[first]
        if more.mean() > MORE_ALIKE and more.mean() > SURE * more.std() / math.sqrt(len(more)):
            off.append(name)
    told = "; ".join(f"{name}: {means[name]:.3f}" for name in likeness)
    return Finding(
        check="centred",
        level="wrong" if off else "ok",
        text=(
            f"faces and their mirror images are more alike when moved ({told}): the faces lie off the middle"
            if off
            else f"faces and their mirror images are most alike as they lie ({told})"
        ),
        figures={"cosine_with_mirror_image": means},
    )


def _mirror_finding(sample: Sample, plain: Floats, mirrored: Floats) -> Finding:
    scores = sample.score(plain)
    total = plain + mirrored
    lengths = np.linalg.norm(total, axis=1, keepdims=True)
    both = sample.score(total / np.where(lengths > 0, lengths, 1))
    more = gain(both, scores, sample.known, comparisons=1)
    likeness = float(_cosines(plain, mirrored).mean())
    genuine = float(scores[sample.known.same].mean())
    helps = "helps" if more.low > 0 else "harms" if more.high < 0 else "makes no difference beyond chance"
    text = (
        f"an image and its mirror image have cosine {likeness:.2f}, two photographs of one person {genuine:.2f}; "
        f"averaging both {helps}: d' {more}"
    )
    if likeness < genuine:
        text += "; a mirror image should be more alike than another photograph: was the model trained without mirroring?"
    return Finding(
        check="mirror image",
        level="note" if likeness < genuine else "ok",
        text=text,
        figures={"cosine": likeness, "genuine": genuine, "gain": vars(more)},
    )


def _mirror(faces: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(faces[:, :, ::-1])


def _cosines(one: Floats, other: Floats) -> Floats:
    cosines: Floats = np.einsum("nd,nd->n", one, other)
    return cosines
