"""All that the page of ``topoface clusters report`` shows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from topoface.diagnostics.calibration import Estimate, mean_over
from topoface.diagnostics.clusters.graph import Graph
from topoface.diagnostics.clusters.identities import Similar
from topoface.diagnostics.clusters.measured import Clusters, by_chance, figures_of
from topoface.diagnostics.clusters.scores import COLLECTED, Collected, Planted, most_suspicious, suspects
from topoface.diagnostics.prediction import Floats, Integers
from topoface.functional.clustering import agreement

MEMORISED = 0.02  # share of images nearer to another center, below which agreement says nothing about labels
LEFT_OUT, IN_CENTER, AT_VISIT, CHANCE = "own image left out", "own image in its center", COLLECTED, "chance"


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """All that the page shows.

    Attributes:
        clusters: training images among their centers.
        similar: identities among one another.
        collected: what the run itself kept, if it did.
        scores: float64 ``[n]`` by name, the first ranks the images.
        agreed: figures of clusters against labels, by what the clusters are.
        intervals: of some of the figures with the own image left out.
        nearer: share of images nearer to another center than to their own without themselves.
        planted: labels that are known to be wrong, if they are.
        graph: clusters found without labels, where there are images enough.
    """

    clusters: Clusters
    similar: Similar
    collected: Collected | None
    scores: Mapping[str, Floats]
    agreed: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Estimate]
    nearer: Estimate
    planted: Planted | None
    graph: Graph | None = None

    @property
    def main(self) -> str:
        """Name of the score that ranks."""
        return next(iter(self.scores))

    @property
    def score(self) -> Floats:
        """Float64 ``[n]``, the score that ranks."""
        return self.scores[self.main]

    @property
    def order(self) -> Integers:
        """Rows by falling score; those without one are left out."""
        return most_suspicious(self.score)

    @property
    def suspected(self) -> Integers:
        """Images ``[C]`` of each label whose score says that another center is nearer."""
        chosen = self.clusters.labels[suspects(self.score)]
        return np.bincount(chosen, minlength=len(self.clusters.memory.visits))

    @property
    def memorised(self) -> bool:
        """Whether agreement is too good to tell anything about labels."""
        return self.nearer.value < MEMORISED


def agreements(
    clusters: Clusters, collected: Collected | None, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, Estimate]]:
    """Figures of clusters against labels by what the clusters are, and intervals of those with the own image left out.

    Images that are the only one of their label have no center without themselves: they are passed over there.
    """
    labels, known, assigned = clusters.labels, clusters.company, clusters.assigned_left_out
    found = agreement(assigned[known], labels[known])
    figures = {
        LEFT_OUT: figures_of(found),
        IN_CENTER: figures_of(agreement(clusters.assigned, labels)),
    }
    if collected is not None and (collected.assigned >= 0).any():
        visited = collected.assigned >= 0
        figures[AT_VISIT] = figures_of(agreement(collected.assigned[visited], labels[visited]))
    figures[CHANCE] = by_chance(assigned[known], labels[known], seed)
    intervals = {
        "BCubed precision": mean_over(found.bcubed_precision, labels[known], seed=seed),
        "BCubed recall": mean_over(found.bcubed_recall, labels[known], seed=seed),
        "BCubed F, mean over images": mean_over(found.bcubed_f, labels[known], seed=seed),
    }
    return figures, intervals
