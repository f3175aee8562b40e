"""How far a line from scores to probabilities holds for people whom it was not fitted to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.calibration.known_pairs import KnownPairs, halves
from topoface.evaluation.figures import Figure
from topoface.functional.influences import Meetings
from topoface.functional.score_calibration import (
    Bins,
    LogisticLine,
    brier,
    cllr,
    error_if_calibrated,
    fit_logistic,
    pair_costs,
    pair_weights,
    probability,
    reliability,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quality:
    """How far probabilities hold for people whom the line was not fitted to.

    Attributes:
        before: calibration error where ``(1 + cosine) / 2`` is taken for the probability.
        error: that of the fitted line.
        expected: what 95 % of equally many pairs stay below if every probability holds.
        cllr: cost of the log likelihood ratio in bits; 1 is worth nothing.
        brier: mean squared distance to what is true.
        bins: probability beside what is true.
    """

    before: float
    error: float
    expected: float
    cllr: Figure
    brier: Figure
    bins: Bins

    def to_json(self) -> dict[str, Any]:
        """All but the bins."""
        return {
            "before": self.before,
            "error": self.error,
            "expected": self.expected,
            "cllr": self.cllr._asdict(),
            "brier": self.brier._asdict(),
        }


def fit(pairs: KnownPairs, prior: float, *, where: str) -> LogisticLine:
    """The line of all people.

    Raises:
        UserError: scores tell nothing.
    """
    try:
        return fit_logistic(pairs.scores, pairs.same, prior)
    except ValueError as error:
        raise UserError(str(error), where, "check the model and the protocol") from error


def quality(pairs: KnownPairs, prior: float, *, where: str, seed: int = 0) -> Quality:
    """Probabilities of each half of the people from the line of the other half; errors as in `fit`, arguments as in
    `topoface.evaluation.threshold.choose`.
    """
    half, _ = halves(pairs, seed, where)
    used = half >= 0
    ratio = np.zeros(len(half))
    for k in (0, 1):
        held = half == k
        ratio[held] = fit(pairs.among(half == 1 - k), prior, where=where).log_ratio(pairs.scores[held])
    ratio, tried = ratio[used], pairs.among(used)
    chance = probability(ratio, prior)
    bins = reliability(chance, tried.same, prior)
    meetings = Meetings(tried.people)

    def within(value: float, costs: Floats, share: float) -> Figure:
        """A mean of costs of pairs, of which the genuine ones weigh ``share`` together."""
        middle = np.where(tried.same, costs[tried.same].mean(), costs[~tried.same].mean())
        error = meetings.error(pair_weights(tried.same, share) * (costs - middle))
        return Figure(value, *error.around(value))

    return Quality(
        before=reliability((1 + tried.scores) / 2, tried.same, prior).error,
        error=bins.error,
        expected=error_if_calibrated(chance, tried.same, prior, seed=seed),
        cllr=within(cllr(ratio, tried.same), pair_costs(ratio, tried.same), 0.5),
        brier=within(brier(chance, tried.same, prior), (chance - tried.same) ** 2, prior),
        bins=bins,
    )
