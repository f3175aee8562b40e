"""What ``topoface topology hardness`` works out: every fit of the mixture, judged as the probability of an error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.diagnostics.calibration import Estimate, Reliability, ranking, reliability
from topoface.diagnostics.prediction import Predictions, batch_fit, fit_each_batch, fit_entropies
from topoface.functional.mixture import FITS, MixtureFit
from topoface.methods.topofr_settings import Damage

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """One way of fitting.

    Attributes:
        hardness: float64 ``[n]``.
        fits: the mixtures, one a batch or one for all samples.
        auc: how well the hardness ranks wrong samples above right ones.
        reliability: how far it is the probability of being wrong.
    """

    hardness: Floats
    fits: list[MixtureFit]
    auc: Estimate
    reliability: Reliability


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """Everything that the page shows.

    Attributes:
        main: the run's own fit, a key of FITS.
        margin: whether the entropies are those of the logits with margin.
        by_batch: of each fit, one mixture a batch, as in training.
        over_all: of each fit, one mixture for all samples.
        plain: the run's own fit to the entropies without margin, by batch.
        auc_of: how well other numbers rank wrong above right.
        deciles: share wrong by tenth of the samples, ordered by entropy.
    """

    found: Predictions
    main: str
    margin: bool
    by_batch: Mapping[str, Judged]
    over_all: Mapping[str, Judged]
    plain: Judged
    auc_of: Mapping[str, Estimate]
    deciles: Mapping[str, Reliability]


def judge_all(found: Predictions, damage: Damage, classes: int, *, margin: bool) -> Results:
    """Fit in every way and judge.

    Args:
        found: samples, whole batches in a row.
        damage: settings of the weights; its fit becomes the main one.
        classes: identities of the head.
        margin: whether ``found.entropy`` is that of the logits with margin.
    """
    main = batch_fit(damage)
    without = replace(found, entropy=found.plain_entropy)
    scores = {
        "entropy": found.entropy,
        "entropy without margin": found.plain_entropy,
        "1 − p": -torch.expm1(found.target_log_probability.double()),
    }
    ordered = {"with margin": found.entropy} if margin else {}
    ordered["without margin"] = found.plain_entropy
    return Results(
        found=found,
        main=main,
        margin=margin,
        by_batch={fit: _judged(found, *fit_each_batch(found, fit, damage, classes)) for fit in FITS},
        over_all={fit: _judged_over_all(found, fit, damage, classes) for fit in FITS},
        plain=_judged(found, *fit_each_batch(without, main, damage, classes)),
        auc_of={name: ranking(as_floats(score), found.wrong, found.labels) for name, score in scores.items()},
        deciles={
            name: reliability(_ranks(as_floats(entropy)), found.wrong, found.labels)
            for name, entropy in ordered.items()
        },
    )


def _judged_over_all(found: Predictions, fit: str, damage: Damage, classes: int) -> Judged:
    mixture = fit_entropies(found.entropy, fit, damage, classes)
    return _judged(found, as_floats(mixture.hardness), [mixture])


def _judged(found: Predictions, hardness: Floats, fits: list[MixtureFit]) -> Judged:
    return Judged(
        hardness=hardness,
        fits=fits,
        auc=ranking(hardness, found.wrong, found.labels),
        reliability=reliability(hardness, found.wrong, found.labels),
    )


def as_floats(values: torch.Tensor) -> Floats:
    """Float64, as statistics want it."""
    array: Floats = values.double().numpy()
    return array


def _ranks(values: Floats) -> Floats:
    """Rank of each value in [0, 1), so that tenths of [0, 1] hold equally many."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values)) / len(values)
    return ranks


def parameters_of(fits: list[MixtureFit]) -> dict[str, Floats]:
    """Of each mixture: share of the easy part, its deviation, upper end of the hard part."""
    rows = np.array([[float(fit.weight), math.sqrt(float(fit.variance)), float(fit.upper)] for fit in fits])
    return dict(zip(("pi", "sigma", "omega"), rows.T, strict=True))


def numbers_of(results: Results) -> dict[str, Any]:
    """Everything that the page shows, and each sample, for ``hardness.json``."""
    found = results.found
    return {
        "samples": len(found.wrong),
        "wrong": int(found.wrong.sum()),
        "fit": results.main,
        "by_batch": {fit: _numbers(judged) for fit, judged in results.by_batch.items()},
        "over_all": {fit: _numbers(judged) for fit, judged in results.over_all.items()},
        "by_batch_without_margin": _numbers(results.plain),
        "auc_of": {name: auc._asdict() for name, auc in results.auc_of.items()},
        "wrong_by_tenth": {name: _bins(each) for name, each in results.deciles.items()},
        "each": {
            "position": found.positions,
            "label": found.labels,
            "predicted": found.predicted,
            "entropy": found.entropy,
            "entropy_without_margin": found.plain_entropy,
            "target_log_probability": found.target_log_probability,
            "hardness": results.by_batch[results.main].hardness,
        },
    }


def _numbers(judged: Judged) -> dict[str, Any]:
    return {
        "auc": judged.auc._asdict(),
        "mean": judged.hardness.mean(),
        "share_above_half": (judged.hardness > 0.5).mean(),
        "calibration_error": judged.reliability.error,
        "calibration_error_if_calibrated": judged.reliability.error_if_calibrated,
        "bins": _bins(judged.reliability),
        "parameters": parameters_of(judged.fits),
    }


def _bins(judged: Reliability) -> list[dict[str, Any]]:
    return [each._asdict() | {"share": each.share._asdict()} for each in judged.bins]
