"""Figures of millions of scores, from one sort of each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.embedding import FAILED_IMPOSTOR
from topoface.evaluation.figures import (
    BINS,
    COST,
    TEMPLATE_FARS,
    Curve,
    PairFigures,
    TarAtFar,
    band,
    band_fars,
    cost_figure,
    tar_at,
    with_intervals,
)
from topoface.functional.bootstrap import Floats
from topoface.functional.tail_bootstrap import ScoredPairs, tail_bootstrap
from topoface.functional.verification import allowed_false_accepts

_CURVE_POINTS = 300


def pair_figures(
    genuine: NDArray[Any], impostor: NDArray[Any], drawn: tuple[list[float], dict[str, Floats]] | None = None
) -> PairFigures:
    """TAR at each FAR, minDCF, curve and histogram.

    Args:
        genuine: finite scores ``[g]``; sorted in place.
        impostor: finite scores ``[i]``; sorted in place. No labels travel with the scores: sorting plain float32 is vectorised,
            ten times faster than the order that carries labels along.
        drawn: from `drawn_points`, for intervals.
    """
    fars, replicates = drawn or ([], {})
    points = points_at_fars(genuine, impostor, TEMPLATE_FARS)
    along = points_at_fars(genuine, impostor, np.geomspace(1 / len(impostor), 1, _CURVE_POINTS).tolist())
    roc = np.unique([(0.0, 0.0, np.inf)] + [(p.far, p.tar.value, p.threshold) for p in along], axis=0).T
    edges = np.linspace(-1, 1, BINS + 1)
    edges[-1] += 1e-6
    return PairFigures(
        genuine=len(genuine),
        impostors=len(impostor),
        tar=with_intervals(points, replicates, len(genuine)),
        min_dcf=cost_figure(*_lowest_cost(genuine, impostor), replicates.get("min_dcf")),
        curve=Curve(roc, band(fars, replicates), len(impostor)),
        histogram=np.stack(
            [np.diff(np.searchsorted(kind, edges.astype(np.float32))) for kind in (genuine, impostor)]
        ),
        replicates=replicates,
    )


def drawn_points(
    genuine: ScoredPairs, impostor: ScoredPairs, people: int, *, bootstrap: int, seed: int
) -> tuple[list[float], dict[str, Floats]]:
    """FARs of the band, and replicates by name: TAR at these and at ``TEMPLATE_FARS``, and minDCF."""
    fars = band_fars(len(impostor.scores), top=max(TEMPLATE_FARS))
    every = [*TEMPLATE_FARS, *fars]
    drawn = tail_bootstrap(genuine, impostor, people, every, COST, replicates=bootstrap, seed=seed)
    named = {f"tar@{far:g}": drawn.tar[:, k] for k, far in enumerate(every)}
    return fars, named | {"min_dcf": drawn.min_dcf}


def points_at_fars(genuine: NDArray[Any], impostor: NDArray[Any], fars: Sequence[float]) -> list[TarAtFar]:
    """The lowest threshold whose FAR does not exceed each target, as `functional.verification.threshold_at_far` finds one.

    Args:
        genuine: finite scores ``[g]``; sorted in place.
        impostor: finite scores ``[i]``; sorted in place.
        fars: targets in [0, 1].
    """
    genuine.sort()
    impostor.sort()
    return [_point(genuine, impostor, far) for far in fars]


def _point(genuine: NDArray[Any], impostor: NDArray[Any], far: float) -> TarAtFar:
    allowed = allowed_false_accepts(len(impostor), far)
    place = len(impostor) - 1 - allowed
    bar = -np.inf if place < 0 else impostor[place]  # accept strictly above it
    accepted = genuine[np.searchsorted(genuine, bar, side="right") :]
    false = impostor[np.searchsorted(impostor, bar, side="right") :]
    threshold = min((float(part[0]) for part in (accepted, false) if len(part)), default=float("inf"))
    failed = len(impostor) - int(np.searchsorted(impostor, FAILED_IMPOSTOR))
    return tar_at(far, threshold, len(accepted), len(genuine), len(false), len(impostor), failed)


def _lowest_cost(genuine: NDArray[Any], impostor: NDArray[Any]) -> tuple[float, int]:
    """MinDCF of ascending scores, and how many impostor pairs are accepted there.

    Only genuine scores can be the best thresholds, besides accepting nothing.
    """
    false = np.append(0, len(impostor) - np.searchsorted(impostor, genuine))
    kept = np.append(0, len(genuine) - np.searchsorted(genuine, genuine))
    costs = COST.of(false / len(impostor), kept / len(genuine))
    best = int(np.argmin(costs))
    return float(costs[best]), int(false[best])
