"""What ``topoface pairs distribution`` knows of a run, and the figures that its page is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from topoface.diagnostics.calibration import Estimate
from topoface.diagnostics.page import Face
from topoface.diagnostics.pairs.candidates import Candidate
from topoface.diagnostics.pairs.sample import Measured
from topoface.diagnostics.pairs.similarities import (
    BINS,
    Counts,
    distances,
    kept_of_hardest,
    middles,
    quantile,
    true_accepts,
)
from topoface.functional.bootstrap import percentile_interval

FARS = (1e-2, 1e-3, 1e-4, 1e-5)
LEAST_FALSE_ACCEPTS = 10  # that a rate must allow to be told
SHARES = (1e-4, 1e-3, 1e-2, 0.1)  # of the hardest pairs; the first that leaves enough of every set is used
LEAST_HARDEST = 30
HARDEST_KEPT = (0.01, 0.001)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """All about one run.

    Attributes:
        name: short.
        measured: similarities of its sample.
        identity_pairs: pairs of identities with a suspicious pair of images.
        candidates: those of them that were looked at again, the most alike first.
        faces: of the first of these.
        alike: the most alike images of different labels.
        alike_positions: of these in the training data.
        data: what tells its training data from others.
        uniform: whether its batches are drawn from all images alike.
        fact: what the page says of it.
        real: whether its images are photographs.
    """

    name: str
    measured: Measured
    identity_pairs: int
    candidates: Sequence[Candidate]
    faces: Sequence[Face]
    alike: Sequence[Face]
    alike_positions: Sequence[tuple[int, int]]
    data: Mapping[str, Any]
    uniform: bool
    fact: str
    real: bool

    @property
    def row_views(self) -> dict[str, Counts]:
        """Every set of negatives by its short name; UN as a row of the softmax sees it."""
        return {
            "ALL": self.measured.every.counts,
            "CL": self.measured.classes.counts,
            "ML": self.measured.in_batches.every.counts,
            "UN": self.measured.row_view(filtered=False),
            "UN whisker": self.measured.row_view(filtered=True),
        }

    @property
    def share(self) -> float:
        """Of the hardest pairs that is looked at."""
        least = min(self.measured.classes.size, self.measured.in_batches.every.size)
        return next((share for share in SHARES if share * least >= LEAST_HARDEST), 1.0)

    @property
    def kept_of_hardest(self) -> dict[float, float]:
        """Which part of the hardest share of ML the whisker keeps, of those that are less alike than the median genuine pair."""
        true = middles(BINS) <= self.measured.positive
        ml = self.measured.in_batches
        return {
            share: kept_of_hardest(ml.every.counts * true, ml.kept.counts * true, share)
            for share in HARDEST_KEPT
        }

    @property
    def kept_above(self) -> tuple[int, int]:
        """Pairs of ML above the median genuine pair: those that the whisker keeps, and all."""
        above = middles(BINS) > self.measured.positive
        ml = self.measured.in_batches
        return int(ml.kept.counts[above].sum()), int(ml.every.counts[above].sum())

    @property
    def robust_gap(self) -> Estimate:
        """The robust gap: 1 % quantile of genuine minus 99.9 % quantile of impostor pairs."""
        return self.measured.estimate(robust_gap, "genuine", "every")

    def tar(self, far: float) -> Estimate:
        """True accept rate on the sample's pairs."""
        return self.measured.estimate(partial(true_accepts, far=far), "genuine", "every")

    @property
    def fars(self) -> list[float]:
        """Those that the impostor pairs can tell."""
        return [far for far in FARS if far * self.measured.every.size >= LEAST_FALSE_ACCEPTS]

    @property
    def main_far(self) -> float | None:
        """The one that a sentence tells: 1e-3 or the next higher that can be told."""
        return min((far for far in self.fars if far >= 1e-3), default=None)


def robust_gap(genuine: Counts, impostor: Counts) -> float:
    """What separates all but few pairs: 1 % quantile of genuine minus 99.9 % quantile of impostor pairs."""
    return quantile(genuine, 0.01) - quantile(impostor, 0.999)


def wasserstein(one: Counts, other: Counts) -> float:
    """1-Wasserstein distance of two counts on one grid."""
    return distances(middles(len(one)), one, other)[0]


def change(first: Result, other: Result, figure: Callable[..., float]) -> Estimate:
    """``other`` minus ``first`` of a figure of genuine and impostor counts; for runs on the same data and sample."""
    one, two = (result.measured.estimate(figure, "genuine", "every").value for result in (first, other))
    drawn = [result.measured.replicated(figure, "genuine", "every") for result in (first, other)]
    return Estimate(two - one, *percentile_interval(drawn[1] - drawn[0]))
