"""Structure alignment: how far the H0 persistence of the embeddings is from that of their source.

TopoFR (arXiv 2410.10587, eq. 2) after topological autoencoders (arXiv 1906.00722). The forms, by what is compared:

- ``paired``: the edges of *both* trees, each measured in both spaces (eq. 2).
- ``sorted``: the two sorted lists of tree edge lengths (the released code). It can be 0 with no alignment at all.
- ``wasserstein1`` and ``bottleneck``: those distances of the two diagrams.
- ``random``: as ``paired``, along edges drawn at random: the control.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.functional.distances import squared_chords, squared_distances
from topoface.functional.lengths import Unit, edge_lengths, gap_loss, matrix_lengths, sum_of_gaps
from topoface.functional.persistence import bottleneck_distance, h0_edges, tree_overlap

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
    both = form in ("paired", "random")  # trees are compared edge by edge, not each space's own as a list
    with _full_precision(latents.device.type):
        points = latents.to(torch.promote_types(latents.dtype, torch.float32))
        if n <= 1:
            return 0 * points.sum()
        space = _measure(points, latent)
        if form != "random":
            trees = (
                h0_edges(source_distances) if source_edges is None else source_edges,
                h0_edges(space.squared),
            )
        elif random_edges is not None:
            trees = random_edges
        else:
            raise ValueError("form 'random' needs random_edges, e.g. random_trees(uniform)")
        compared = math.ceil(shortest_share * (n - 1))
        divisor = {"sum": 1, "batch": n, "edges": compared}[reduction] * (2 if both else 1)
        ranked, power = not both, 1 if form == "wasserstein1" else 2
        if form != "bottleneck" and norm != "max" and shortest_share == 1:
            along, units = _along(space, trees, norm, both)
            return gap_loss(
                source_distances,
                points,
                along,
                factors=space.factors,
                units=units,
                ranked=ranked,
                power=power,
                divisor=divisor,
            )
        a, b = _lengths(source_distances, space, trees, norm, both)
        if form == "bottleneck":
            return bottleneck_distance(a, b)
        if shortest_share < 1:
            a, b = (torch.cat([x[:compared], x[n - 1 : n - 1 + compared]]) for x in (a, b))
        return sum_of_gaps(a, b, ranked=ranked, power=power) / divisor


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
    with torch.no_grad(), _full_precision(latents.device.type):
        space = _measure(latents.to(torch.promote_types(latents.dtype, torch.float32)), latent)
        trees = h0_edges(source_distances) if source_edges is None else source_edges, h0_edges(space.squared)
        a, b = _lengths(source_distances, space, trees, norm, both=True)
        own_a, own_b = a[: n - 1], b[n - 1 :]
        plain_a, plain_b = _lengths(source_distances, space, trees, "none", both=False)
        i, j = torch.triu_indices(n, n, 1, device=latents.device)
        within = None if labels is None else labels[trees[1][:, 0]] == labels[trees[1][:, 1]]
        return StructureReport(
            paired=float((b - a).square().mean()),
            sorted=float((own_b.sort().values - own_a.sort().values).square().mean()),
            mean_source_edge=float(plain_a.mean()),
            mean_latent_edge=float(plain_b.mean()),
            scale_ratio=float(plain_b.mean() / plain_a.mean()),
            overlap=tree_overlap(*trees, n),
            chance_overlap=2 / n,
            bottleneck=float(bottleneck_distance(own_a, own_b)),
            spearman=_rank_correlation(source_distances[i, j], space.squared[i, j]),
            same_identity_edges=None if within is None else float(within.double().mean()),
        )


class _Space(NamedTuple):
    """Measured latents."""

    points: Tensor  # [n, D], float32 or better
    factors: Tensor | None  # [n], what turns them into directions where those are measured
    squared: Tensor  # [n, n], squared distances


def _measure(points: Tensor, latent: str) -> _Space:
    if latent == "sphere":
        squared, factors = squared_chords(points)
        return _Space(points, factors, squared)
    return _Space(points, None, squared_distances(points))


def _along(
    space: _Space, trees: tuple[Tensor, Tensor], norm: str, both: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Unit, Unit]]:
    """The edges to measure in the source and among the latents, both trees in turn or each one's own; and the units."""
    along = (torch.cat(trees),) * 2 if both else trees
    if norm == "mean_edge":
        last = len(along[1])
        return along, ((0, len(trees[0])), (last - len(trees[1]), last))
    # chords lie in [0, 2]
    return along, (1.0, 2.0 if norm == "pixel_range" and space.factors is not None else 1.0)


def _lengths(
    source: Tensor, space: _Space, trees: tuple[Tensor, Tensor], norm: str, both: bool
) -> tuple[Tensor, Tensor]:
    """Normalised lengths in the source and among the latents, along `_along`."""
    along, units = _along(space, trees, norm, both)
    if norm == "max":  # the unit is one more edge, the longest of all
        m = len(along[0])
        first, second = (
            torch.cat([edges, _longest(d)]) for edges, d in zip(along, (source, space.squared), strict=True)
        )
        along, units = (first, second), ((m, m + 1),) * 2
    a = matrix_lengths(source, along[0], like=space.points, unit=units[0])
    b = edge_lengths(space.points, along[1], factors=space.factors, unit=units[1])
    return (a[:-1], b[:-1]) if norm == "max" else (a, b)


def _longest(distances: Tensor) -> Tensor:
    """int64 ``[1, 2]``: the edge."""
    place, n = distances.triu(1).argmax(), len(distances)
    return torch.stack([place // n, place % n])[None]


def _full_precision(device: str) -> AbstractContextManager[object]:
    """No autocast; to say so where there is none would cost a fiftieth of the loss."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


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
