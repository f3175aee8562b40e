"""Clusters found without labels, for `topoface.diagnostics.clusters.report`: how well they agree with the labels, by the cosine that links."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from topoface.data import open_source
from topoface.diagnostics.clusters.measured import draw_identities, embed, figures_of
from topoface.diagnostics.prediction import Floats, Integers
from topoface.errors import UserError
from topoface.functional.clustering import Agreement, agreement
from topoface.functional.draws import generator
from topoface.functional.graph_clusters import graph_clusters, nearest_links
from topoface.training.run import Run

NEIGHBOURS = 20
COSINES = np.linspace(0.95, 0.05, 37)  # falling: the links of one are among those of the next
MOST = 20_000  # images, in whole identities: every one is compared with every other


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Agreement with the labels at each of `COSINES`, of images of two halves of the identities, each clustered by itself.

    Attributes:
        source: where the images come from.
        held_out: whether they are no training images.
        images: how many of the half that is judged.
        identities: of that half.
        choosing: of the half by which the cosine is chosen.
        judged: of the other half.
    """

    source: str
    held_out: bool
    images: int
    identities: int
    choosing: list[Agreement]
    judged: list[Agreement]

    @property
    def chosen(self) -> int:
        """Position of the cosine with the highest BCubed F on the first half."""
        return _best(self.choosing)

    @property
    def best(self) -> int:
        """The same for the other half, in hindsight."""
        return _best(self.judged)

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Figures of the second half at the chosen cosine, and at its own best."""
        return {
            "cosine chosen on the other half": figures_of(self.judged[self.chosen]),
            "best cosine in hindsight": figures_of(self.judged[self.best]),
        }

    def curves(self) -> Floats:
        """BCubed precision, recall and F ``[3, cosines]`` of the half that is judged."""
        return np.array([found.bcubed for found in self.judged]).T


def _best(found: list[Agreement]) -> int:
    return int(np.argmax([each.bcubed[2] for each in found]))


def sweep_graph(rows: Tensor, labels: Integers, source: str, *, held_out: bool, seed: int) -> Graph | None:
    """Cluster images at each cosine; None where the halves have no two images each.

    Args:
        rows: unit embeddings ``[n, D]``.
        labels: int64 ``[n]``.
        source: where they come from.
        held_out: whether they are no training images.
        seed: draws identities if there are too many images, and the halves.
    """
    order = generator(seed, "graph identities").permutation(np.unique(labels))
    so_far = np.bincount(labels)[order].cumsum()
    order = order[: max(2, int(np.searchsorted(so_far, MOST, side="right")))]
    halves = [np.flatnonzero(np.isin(labels, part)) for part in (order[::2], order[1::2])]
    if min(map(len, halves)) < 2:
        return None
    choosing, judged = (
        [
            agreement(found, labels[half])
            for found in graph_clusters(
                nearest_links(rows[torch.from_numpy(half)], NEIGHBOURS), COSINES, len(half)
            )
        ]
        for half in halves
    )
    return Graph(
        source=source,
        held_out=held_out,
        images=len(halves[1]),
        identities=len(order[1::2]),
        choosing=choosing,
        judged=judged,
    )


def sweep_held_out(run: Run, uri: str, seed: int) -> Graph:
    """The same for images that the run was not trained on.

    Raises:
        UserError: they cannot be read, or are too few.
    """
    other = replace(run, source=open_source(uri))
    positions = draw_identities(other, MOST, seed)
    labels = other.source.labels[positions].astype(np.int64)
    graph = sweep_graph(embed(other, positions), labels, uri, held_out=True, seed=seed)
    if graph is None:
        what = "has not two images in each half of its identities"
        raise UserError(what, f"--held-out {uri}", "give more identities")
    return graph
