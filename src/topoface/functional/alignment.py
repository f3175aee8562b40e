"""Structure alignment: how far the H0 persistence of the embeddings is from that of their source.

TopoFR (arXiv 2410.10587, eq. 2) after topological autoencoders (arXiv 1906.00722). The forms, by what is compared:

- ``paired``: the edges of *both* trees, each measured in both spaces (eq. 2).
- ``sorted``: the two sorted lists of tree edge lengths (the released code). It can be 0 with no alignment at all.
- ``wasserstein1`` and ``bottleneck``: those distances of the two diagrams.
- ``random``: as ``paired``, along edges drawn at random: the control.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.functional.directions import unit_rows
from topoface.functional.distances import squared_distances
from topoface.functional.persistence import bottleneck_distance, edge_lengths, h0_edges, tree_overlap

FORMS = ("paired", "sorted", "wasserstein1", "bottleneck", "random")
NORMS = ("none", "pixel_range", "mean_edge", "max")
LATENTS = ("raw", "sphere", "learned")
REDUCTIONS = ("sum", "batch", "edges")


def structure_loss(
    source_distances: Tensor,
    latents: Tensor,
    *,
    form: str = "paired",
    norm: str = "none",
    latent: str = "raw",
    reduction: str = "sum",
    shortest_share: float = 1.0,
    source_edges: Tensor | None = None,
    random_edges: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The alignment loss of TopoFR, with its gradient to the latents.

    Builds the latent tree in O(n^2 D) without gradient and differentiates along edges only, in O(n D). Always
    float32 or better, outside autocast. Non-finite latents give a non-finite loss: nothing is masked.

    Args:
        source_distances: ``[n, n]``, distances (not squared) of the source. Their unit is the caller's: for norm
            ``pixel_range`` they are taken as already divided by the largest possible distance, for ``none`` they are
            compared as they are, for ``mean_edge`` and ``max`` the unit does not matter. `pixel_distances` makes
            them. Only the upper triangle is read.
        latents: float ``[n, D]``, not normalised; half types are cast to float32.
        form: what is compared, see the module.
        norm: ``none``; ``pixel_range`` (as ``none``, and halves the chords of ``sphere`` so that both sides lie in
            [0, 1]); ``mean_edge`` (each space divided by the mean edge length of its own tree); ``max`` (each
            divided by its largest distance).
        latent: ``raw`` measures the latents, ``sphere`` their directions; ``learned`` measures as ``raw`` and says that
            the caller has divided by a trained scale.
        reduction: ``sum``, ``batch`` (divided by n) or ``edges`` (by the number of edges compared, n - 1).
            ``bottleneck`` is one length, not a sum, and is never divided.
        shortest_share: for form ``paired``: the share of each tree's edges that are compared, shortest first: local structure
            alone. The scales of ``norm`` are those of the whole trees. Ours, not in the paper.
        source_edges: int64 ``[n - 1, 2]``, the tree of the source where the loader has built it already.
        random_edges: for form ``random``: two int64 ``[m, 2]`` that stand for the two trees, see `random_trees`.

    Returns:
        Scalar, float64 for float64 latents and float32 otherwise. For n <= 1 it is 0, attached to the graph.

    Raises:
        ValueError: for an unknown name, for shapes that do not fit, for form ``random`` without its edges, for a
            ``shortest_share`` outside (0, 1] or with another form than ``paired``.
    """
    for value, allowed in ((form, FORMS), (norm, NORMS), (latent, LATENTS), (reduction, REDUCTIONS)):
        _check_name(value, allowed)
    if not 0 < shortest_share <= 1 or (shortest_share < 1 and form != "paired"):
        raise ValueError(
            f"shortest_share {shortest_share} with form {form!r}; expected (0, 1], 1 unless paired"
        )
    n = _check_shapes(source_distances, latents)
    with torch.autocast(latents.device.type, enabled=False):
        points = measured_points(latents, latent)
        if n <= 1:
            return 0 * points.sum()
        squared = squared_distances(points)
        if form != "random":
            source_tree = h0_edges(source_distances) if source_edges is None else source_edges
            latent_tree = h0_edges(squared)
        elif random_edges is not None:
            source_tree, latent_tree = random_edges
        else:
            raise ValueError("form 'random' needs random_edges, e.g. random_trees(uniform)")
        a, b = _lengths(source_distances, points, squared, source_tree, latent_tree, norm=norm, latent=latent)
        if form == "bottleneck":
            return bottleneck_distance(a[: n - 1], b[n - 1 :])
        compared = n - 1
        if form in ("paired", "random"):
            if shortest_share < 1:
                compared = math.ceil(shortest_share * (n - 1))
                a, b = (torch.cat([x[:compared], x[n - 1 : n - 1 + compared]]) for x in (a, b))
            loss = _paired(a, b)
        elif form == "sorted":
            loss = _sorted_gaps(a, b).square().sum()
        else:
            loss = _sorted_gaps(a, b).abs().sum()
        return loss / {"sum": 1, "batch": n, "edges": compared}[reduction]


def random_trees(uniform: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Two spanning trees drawn at random, for the control ``form="random"``.

    Vertex k >= 1 joins one of the vertices before it, each equally likely.

    Args:
        uniform: float64 ``[n, 2]`` in [0, 1): a column for each tree, of which the first row is not used.

    Returns:
        Two int64 ``[n - 1, 2]``, ``i < j``.
    """
    later = np.arange(1, len(uniform))
    earlier = (uniform[1:] * later[:, None]).astype(np.int64)
    first, second = (torch.from_numpy(np.stack([column, later], axis=1)) for column in earlier.T)
    return first, second


@dataclass(frozen=True, kw_only=True)
class StructureReport:
    """How well the structure of a batch agrees with that of its source.

    A falling discrepancy alone proves nothing: it falls by shrinking too. Read it beside the overlap.

    Attributes:
        paired: discrepancy of form ``paired`` per edge.
        sorted: discrepancy of form ``sorted`` per edge.
        mean_source_edge: mean tree edge of the source, in the unit given.
        mean_latent_edge: mean tree edge of the measured latents, before any normalisation.
        scale_ratio: mean_latent_edge / mean_source_edge.
        overlap: share of edges that the two trees have in common.
        chance_overlap: what independent trees would share, 2 / n.
        bottleneck: bottleneck distance of the diagrams, after normalisation.
        spearman: rank correlation of all distances.
        same_identity_edges: share of latent tree edges within an identity (at best (n - k) / (n - 1) for k
            identities); None without labels.
    """

    paired: float
    sorted: float
    mean_source_edge: float
    mean_latent_edge: float
    scale_ratio: float
    overlap: float
    chance_overlap: float
    bottleneck: float
    spearman: float
    same_identity_edges: float | None


def structure_report(
    source_distances: Tensor,
    latents: Tensor,
    *,
    norm: str = "mean_edge",
    latent: str = "sphere",
    labels: Tensor | None = None,
    source_edges: Tensor | None = None,
) -> StructureReport:
    """The structure of a batch in figures; one tree of each space serves all. For logs and reports, no gradient.

    Args:
        source_distances: ``[n, n]``, n >= 2, as for `structure_loss`.
        latents: float ``[n, D]``.
        norm: as for `structure_loss`.
        latent: as for `structure_loss`; ``raw`` shows shrinkage in ``scale_ratio``.
        labels: int64 ``[n]``, identities.
        source_edges: int64 ``[n - 1, 2]``, the tree of the source where it is known already.

    Raises:
        ValueError: for an unknown name, shapes that do not fit, or n < 2.
    """
    _check_name(norm, NORMS)
    _check_name(latent, LATENTS)
    n = _check_shapes(source_distances, latents)
    if n < 2:
        raise ValueError(f"a structure has at least two points, got {n}")
    with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
        points = measured_points(latents, latent)
        squared = squared_distances(points)
        source_tree = h0_edges(source_distances) if source_edges is None else source_edges
        latent_tree = h0_edges(squared)
        a, b = _lengths(source_distances, points, squared, source_tree, latent_tree, norm=norm, latent=latent)
        raw_a = source_distances[source_tree[:, 0], source_tree[:, 1]].to(points.dtype)
        raw_b = edge_lengths(points, latent_tree)
        i, j = torch.triu_indices(n, n, 1, device=squared.device)
        within = None if labels is None else labels[latent_tree[:, 0]] == labels[latent_tree[:, 1]]
        return StructureReport(
            paired=float(_paired(a, b)) / (n - 1),
            sorted=float(_sorted_gaps(a, b).square().mean()),
            mean_source_edge=float(raw_a.mean()),
            mean_latent_edge=float(raw_b.mean()),
            scale_ratio=float(raw_b.mean() / raw_a.mean()),
            overlap=tree_overlap(source_tree, latent_tree, n),
            chance_overlap=2 / n,
            bottleneck=float(bottleneck_distance(a[: n - 1], b[n - 1 :])),
            spearman=_rank_correlation(source_distances[i, j], squared[i, j]),
            same_identity_edges=None if within is None else float(within.double().mean()),
        )


def _lengths(
    source: Tensor,
    points: Tensor,
    squared: Tensor,
    source_tree: Tensor,
    latent_tree: Tensor,
    *,
    norm: str,
    latent: str,
) -> tuple[Tensor, Tensor]:
    """Normalised source and latent lengths along the edges of both trees: first the source's, then the latent's."""
    edges = torch.cat([source_tree, latent_tree])
    a = source[edges[:, 0], edges[:, 1]].to(points.dtype)
    b = edge_lengths(points, edges)
    if norm == "mean_edge":
        own = len(source_tree)
        return a / _scale(a[:own].mean()), b / _scale(b[own:].mean())
    if norm == "max":
        farthest = squared.triu(1).argmax()
        ends = torch.stack([farthest // len(points), farthest % len(points)])[None]
        return a / _scale(source.triu(1).amax().to(a.dtype)), b / _scale(edge_lengths(points, ends)[0])
    if norm == "pixel_range" and latent == "sphere":
        return a, b / 2  # chords lie in [0, 2]
    return a, b


def _paired(a: Tensor, b: Tensor) -> Tensor:
    return (b - a).square().sum() / 2


def _sorted_gaps(a: Tensor, b: Tensor) -> Tensor:
    """Differences of the ascending tree lengths, each space along its own tree."""
    own = len(a) // 2
    return b[own:].sort().values - a[:own].sort().values


def _scale(scale: Tensor) -> Tensor:
    """A divisor; where all points coincide it is 1, so that the lengths stay 0."""
    return scale.where(scale != 0, 1)


def measured_points(latents: Tensor, latent: str) -> Tensor:
    """The vectors whose distances count: float32 or better, on the unit sphere where asked."""
    points = latents.to(torch.promote_types(latents.dtype, torch.float32))
    return unit_rows(points) if latent == "sphere" else points


def _rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's correlation with average ranks in ties; NaN where one side is constant."""
    ranks = []
    for values in (x, y):
        _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        ranks.append((last - (count - 1) / 2)[place])
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _check_name(value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown name {value!r}; allowed are {', '.join(allowed)}")


def _check_shapes(source_distances: Tensor, latents: Tensor) -> int:
    n = len(latents)
    if latents.dim() != 2 or source_distances.shape != (n, n):
        raise ValueError(
            f"expected source distances [n, n] and latents [n, D], "
            f"got {tuple(source_distances.shape)} and {tuple(latents.shape)}"
        )
    return n
