"""Identities that may be one person, for `topoface.diagnostics.clusters.report`: how similar their centers are, and what their images say."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.diagnostics.clusters.measured import Clusters, as_floats, plain_means
from topoface.diagnostics.prediction import Floats, Integers
from topoface.functional.center_memory import LEAST_COHESION, cohesion, corrected_similarity
from topoface.functional.draws import generator

SAME = 0.9  # gamma from which two identities may be one person
LEAST_SPLIT = 4  # images of an identity that is split into halves: two in each
BINS = 300
RANGE = (-1.5, 1.5)  # of the counted gammas; those beyond are counted at its ends
_BLOCK = 2**22  # gammas at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Similar:
    """Pairs of identities that may be one person: gamma of `SAME` or more, and the nearest other of some image.

    Attributes:
        pairs: int64 ``[m, 2]``, labels ascending; first those that most images take for one another.
        gamma: float64 ``[m]``, similarity of both centers freed of their noise.
        votes: int64 ``[m, 2]``, images of each whose nearest other center is that of the other.
        counts: int64 ``[BINS]`` over `RANGE`, gamma of all pairs that could be compared.
        halves: float64, gamma of the two halves of each identity that has images enough, in random halves.
    """

    pairs: Integers
    gamma: Floats
    votes: Integers
    counts: Integers
    halves: Floats

    @property
    def compared(self) -> int:
        """Pairs of identities that could be."""
        return int(self.counts.sum())

    @property
    def above(self) -> int:
        """Pairs of identities with a gamma of `SAME` or more."""
        lowest = round((SAME - RANGE[0]) / (RANGE[1] - RANGE[0]) * BINS)
        return int(self.counts[lowest:].sum())

    def mutual(self, sizes: Integers) -> NDArray[np.bool_]:
        """Bool ``[m]``: at least half of the images of each are nearest to the other; ``sizes`` ``[C]``."""
        half: NDArray[np.bool_] = np.logical_and(*(2 * self.votes >= sizes[self.pairs]).T)
        return half


@torch.no_grad()
def similar_identities(clusters: Clusters, seed: int) -> Similar:
    """Identities that may be one person, gamma of all pairs of identities, and what halves of one identity give.

    Gamma alone does not find them: of so many pairs the highest are those whose small cohesion happens to be
    underestimated. So a pair must also show in the images: the more of them have the other identity's center as
    their nearest other one, the higher the pair.
    """
    rho = cohesion(clusters.memory)
    usable = torch.nonzero(rho >= LEAST_COHESION)[:, 0]
    scaled = clusters.memory.means[usable] / rho[usable].sqrt()[:, None]
    counts = np.zeros(BINS, dtype=np.int64)
    block = max(1, _BLOCK // max(len(usable), 1))
    for start in range(0, len(usable), block):
        gamma = scaled[start : start + block] @ scaled.T
        later = torch.ones_like(gamma, dtype=torch.bool).triu(start + 1)  # each pair once
        counts += np.histogram(gamma[later].clamp(*RANGE).numpy(), BINS, RANGE)[0]

    pairs, votes = _named_by_images(clusters)
    gammas = as_floats(corrected_similarity(clusters.memory, *torch.from_numpy(pairs.T.copy())))
    alike = gammas >= SAME
    pairs, votes, gammas = pairs[alike], votes[alike], gammas[alike]
    share = votes.sum(axis=1) / clusters.sizes[pairs].sum(axis=1)
    order = np.lexsort((-gammas, -share))
    return Similar(
        pairs=pairs[order],
        gamma=gammas[order],
        votes=votes[order],
        counts=counts,
        halves=_halves(clusters, seed),
    )


def _named_by_images(clusters: Clusters) -> tuple[Integers, Integers]:
    """Labels ``[m, 2]`` of whom some image of one has the other as nearest other; how many images of each do."""
    there = clusters.nearest >= 0
    toward, times = np.unique(
        np.stack([clusters.labels, clusters.nearest], axis=1)[there], axis=0, return_counts=True
    )
    pairs, place = np.unique(np.sort(toward, axis=1), axis=0, return_inverse=True)
    votes = np.zeros_like(pairs)
    votes[place.reshape(-1), (toward[:, 0] > toward[:, 1]).astype(np.intp)] = times
    return pairs, votes


def _halves(clusters: Clusters, seed: int) -> Floats:
    """Gamma of two random halves of each identity with four images or more: what one person under two labels gives."""
    order = generator(seed, "halves").permutation(len(clusters.labels))
    order = order[np.argsort(clusters.labels[order], kind="stable")]  # shuffled within each label
    sizes = clusters.sizes
    starts = sizes.cumsum() - sizes
    labels = clusters.labels[order]
    half = (np.arange(len(order)) - starts[labels]) % 2
    memory = plain_means(clusters.rows[torch.from_numpy(order)], 2 * labels + half, 2 * len(sizes))
    one = torch.from_numpy(2 * np.flatnonzero(sizes >= LEAST_SPLIT))
    gamma = as_floats(corrected_similarity(memory, one, one + 1))
    return gamma[~np.isnan(gamma)]
