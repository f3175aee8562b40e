"""How far genuine and impostor scores lie apart, and whether one way of scoring is better than another beyond chance."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.influences import Meetings

Floats = NDArray[np.float64]
MATTERS = 0.03  # a gain below this share of d' changes nothing that anybody would see


class Known(NamedTuple):
    """What is known of ``m`` pairs.

    Attributes:
        same: bool ``[m]``, true for pairs of one person.
        meetings: who is on them.
    """

    same: NDArray[np.bool_]
    meetings: Meetings


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one way of scoring gains over another, in d'.

    Attributes:
        value: on the pairs as they are.
        low: lower end of its interval, which allows for all comparisons of the search.
        high: upper end.
        matters: the least gain that does.
    """

    value: float
    low: float
    high: float
    matters: float

    @property
    def real(self) -> bool:
        """Whether it is beyond chance and large enough to be seen."""
        return self.low > 0 and self.value >= self.matters

    def __str__(self) -> str:
        return f"{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def separation(scores: Floats, same: NDArray[np.bool_]) -> float:
    """d': mean genuine minus mean impostor score, over the root of the mean of their variances.

    All pairs count, also where a good model makes no errors on so few of them and AUC stands at 1.

    Args:
        scores: ``[m]``.
        same: bool ``[m]``, pairs of both kinds.
    """
    return _apart(scores, same)[0]


def gain(better: Floats, worse: Floats, pairs: Known, *, comparisons: int) -> Gain:
    """How much further apart ``better`` lies than ``worse``, both ``[m]``.

    Args:
        better: scores of the pairs.
        worse: others of the same pairs.
        pairs: what is known of them.
        comparisons: how many such questions are asked at once (Bonferroni).
    """
    (one, of_one), (other, of_other) = (_apart(scores, pairs.same) for scores in (better, worse))
    reach = pairs.meetings.error(of_one - of_other).reach_of_one_of(comparisons)
    value = one - other
    matters = MATTERS * max(abs(one), abs(other))
    return Gain(value=value, low=value - reach, high=value + reach, matters=matters)


def _apart(scores: Floats, same: NDArray[np.bool_]) -> tuple[float, Floats]:
    """d', and what each pair does to it, ``[m]``: to its mean, and to the spread that it is measured in."""
    kinds = [(kind, scores[kind].mean(), scores[kind].var()) for kind in (same, ~same)]
    spread = max(float(np.sqrt((kinds[0][2] + kinds[1][2]) / 2)), 1e-6)  # all scores alike: 0
    apart = float(kinds[0][1] - kinds[1][1]) / spread
    influence = np.empty(len(scores))
    for sign, (kind, mean, variance) in zip((1, -1), kinds, strict=True):
        off = (scores[kind] - mean) / spread
        influence[kind] = (sign * off - apart / 4 * (off**2 - variance / spread**2)) / kind.sum()
    return apart, influence
