"""In-batch negatives as one more class: pairs of samples of different identities join the softmax of every row.

UNPG (arXiv 2203.11593) appends the cosines of all negative pairs of the batch to the logits of each row. Their
sum does not depend on the row, so all of them are one *virtual class* whose logit u is the log-sum-exp of the
scaled cosines: the same loss and gradient term by term, at O(B^2) instead of O(B^3).

The embedding pairs come as blocks of rows, and the cosines are never stored: B x block numbers at a time.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topoface.functional.collectives import max_over_ranks, sum_over_ranks
from topoface.functional.order_statistics import order_statistics

Quartiles = Literal["index", "linear"]
Side = Literal["both", "upper"]
Scope = Literal["batch", "row"]

BLOCK_ROWS = 256
STORED_PAIRS = 2**20  # so many cosines are kept between the passes over them; more are made anew each time


def pair_bounds(
    values: Tensor, whisker: float | None, quartiles: Quartiles = "index", side: Side = "both"
) -> tuple[Tensor, Tensor]:
    """The fences of the box-and-whisker filter, [Q1 - r IQR, Q3 + r IQR], both kept.

    Args:
        values: ``[M]``, similarities of negative pairs.
        whisker: r >= 0; None for no fence at all (never inf: inf times an IQR of 0 is NaN).
        quartiles: ``index``: elements floor(M / 4) and floor(3 M / 4) of the sorted values, as released;
            ``linear``: interpolated.
        side: ``upper`` has no lower fence: easy pairs carry no weight anyway.

    Returns:
        Two scalars like the values. For r >= 0 something always lies between them; for M = 0 they are infinite.

    Raises:
        ValueError: a negative or infinite whisker, an unknown name.
    """
    _check(whisker, quartiles, side)
    low, high = values.new_full((), -torch.inf), values.new_full((), torch.inf)
    count = len(values)
    if whisker is None or not count:
        return low, high
    ordered = values.detach().sort().values
    if quartiles == "index":
        first, third = ordered[count // 4], ordered[3 * count // 4]
    else:
        first, third = torch.quantile(ordered, values.new_tensor([0.25, 0.75])).unbind()
    return _fences(first, third, whisker, side)


def virtual_logit(
    cosines: Tensor,
    same_identity: Tensor,
    scale: float,
    whisker: float | None = 1.5,
    *,
    bounds: tuple[Tensor, Tensor] | None = None,
    scope: Scope = "batch",
    reference_pairs: int | None = None,
) -> Tensor:
    """The logit u of the virtual class from a matrix of cosines; the form to read and to compare with.

    `pair_log_mass` gives the same from embeddings, without the matrix.

    Args:
        cosines: ``[n, m]``: own samples against all; with n = m every pair is there twice.
        same_identity: bool ``[n, m]``, true for genuine pairs and for a sample with itself.
        scale: s of the head.
        whisker: of the filter, see `pair_bounds`; None keeps every pair.
        bounds: lowest and highest cosine kept, instead of those of the whisker; needed if n < m.
        scope: ``batch``: one logit of all pairs, log(1/2 sum exp(s cos)) over ordered pairs; ``row``: one a row, over its
            own pairs.
        reference_pairs: R: act as a batch of R negative pairs would, by adding log(R / M), M before the filter. None: as
            published, where u grows with the batch.

    Returns:
        Scalar or ``[n]``, differentiable in the cosines (the filter is not); -inf where no pair is left.

    Raises:
        ValueError: an unknown name, a whisker below 0 or infinite, or n < m without bounds.
    """
    negative = ~same_identity
    if bounds is None:
        if cosines.shape[0] != cosines.shape[1]:
            raise ValueError(f"bounds are needed where own samples see others too: {tuple(cosines.shape)}")
        upper = torch.ones_like(negative).triu(1)
        bounds = pair_bounds(cosines[negative & upper], whisker)
    kept = _kept(cosines, negative, *bounds)
    masked = (scale * cosines).masked_fill(~kept, -torch.inf)
    if scope == "row":
        found = kept.any(1)
        mass = masked[found].logsumexp(1)
        logit = cosines.new_full((len(cosines),), -torch.inf).masked_scatter(found, mass)
    elif scope == "batch":
        logit = masked[kept].logsumexp(0) - math.log(2) if kept.any() else cosines.new_tensor(-torch.inf)
    else:
        raise ValueError(f"unknown name {scope!r}; allowed are batch, row")
    if reference_pairs is not None:
        logit = logit + math.log(reference_pairs) - (negative.sum().to(cosines.dtype) / 2).log()
    return logit


@dataclass(frozen=True, kw_only=True)
class NegativePairs:
    """What is known of the negative pairs of a global batch before any is used; detached scalars, alike on all ranks.

    Attributes:
        count: M, unordered pairs.
        low: lowest cosine that the filter keeps.
        high: highest.
        dropped_below: share of pairs below.
        dropped_above: share above.
        hardest: highest cosine of all, -inf if there is no pair.
        hardest_kept: highest that is kept.
    """

    count: Tensor
    low: Tensor
    high: Tensor
    dropped_below: Tensor
    dropped_above: Tensor
    hardest: Tensor
    hardest_kept: Tensor


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Unit embeddings of this process against those of all.

    Attributes:
        rows: ``[n, D]``, unit rows of this process's samples.
        columns: ``[B, D]``, of all samples; the rows themselves on one process.
        row_labels: int64 ``[n]``.
        column_labels: int64 ``[B]``.
    """

    rows: Tensor
    columns: Tensor
    row_labels: Tensor
    column_labels: Tensor

    def blocks(self) -> Iterable[tuple[slice, Tensor, Tensor]]:
        """Rows, detached cosines ``[block, B]`` in [-1, 1], and which of them are of different identities."""
        few = len(self.rows) * len(self.columns) <= STORED_PAIRS
        return self._stored if few else self._made()

    @cached_property
    def _stored(self) -> list[tuple[slice, Tensor, Tensor]]:
        return list(self._made())

    def _made(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        columns = self.columns.detach().T
        for start in range(0, len(self.rows), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            cosines = (self.rows[part].detach() @ columns).clamp_(-1, 1)
            yield part, cosines, self.row_labels[part, None] != self.column_labels[None, :]


@torch.no_grad()
def whisker_bounds(
    batch: PairBatch, whisker: float | None, quartiles: Quartiles = "index", side: Side = "both"
) -> tuple[Tensor, Tensor]:
    """`pair_bounds` of the negative pairs of the global batch, exact, without gathering or sorting them.

    Every ordered pair is counted, each by the process of its first sample: the k-th of the M values is the 2k-th there.
    """
    _check(whisker, quartiles, side)
    infinite = batch.rows.new_full((), torch.inf)
    if whisker is None:
        return -infinite, infinite
    ordered_pairs = sum_over_ranks(_count(batch))
    count = ordered_pairs // 2
    if quartiles == "index":
        places = torch.stack([ordered_pairs // 4, 3 * ordered_pairs // 4])
        first, third = _cosines_at(batch, places).unbind()
    else:
        exact = torch.stack([(count - 1) * 0.25, (count - 1) * 0.75]).to(torch.float64)
        below = exact.floor()
        values = _cosines_at(batch, 2 * torch.cat([below, exact.ceil()]).long())
        first, third = torch.lerp(values[:2], values[2:], (exact - below).to(values.dtype)).unbind()
    low, high = _fences(first, third, whisker, side)
    empty = count == 0
    return torch.where(empty, -infinite, low), torch.where(empty, infinite, high)


@torch.no_grad()
def genuine_quantile(batch: PairBatch, quantile: float) -> Tensor:
    """A quantile of the cosines of genuine pairs of the global batch, by index; NaN where there is none."""
    own = (batch.row_labels[:, None] == batch.column_labels[None, :]).sum() - len(batch.rows)
    pairs = sum_over_ranks(own)
    # a sample with itself, cosine 1, counts as genuine here: those are the highest, and lie past every place asked for
    blocks = lambda: ((cosines, ~negative) for _, cosines, negative in batch.blocks())  # noqa: E731
    place = (quantile * (pairs - 1)).round().long().clamp(min=0)[None]
    (value,) = order_statistics(blocks, place, batch.rows.dtype).unbind()
    return torch.where(pairs > 0, value, torch.nan)


@torch.no_grad()
def describe_pairs(batch: PairBatch, low: Tensor, high: Tensor) -> NegativePairs:
    """Count the pairs of the global batch on either side of the fences."""
    lost = batch.rows.new_full((), -torch.inf)
    totals = torch.zeros(3, dtype=torch.int64, device=low.device)
    tops = [lost, lost]
    for _, cosines, negative in batch.blocks():
        kept = _kept(cosines, negative, low, high)
        totals += torch.stack(
            [negative.sum(), (negative & (cosines < low)).sum(), (negative & (cosines > high)).sum()]
        )
        for k, mask in enumerate((negative, kept)):
            tops[k] = torch.maximum(tops[k], cosines.masked_fill(~mask, -torch.inf).amax())
    count, below, above = sum_over_ranks(totals).unbind()
    hardest, hardest_kept = max_over_ranks(torch.stack(tops)).unbind()
    share = count.clamp(min=1).to(low.dtype)
    return NegativePairs(
        count=count // 2,
        low=low,
        high=high,
        dropped_below=below / share,
        dropped_above=above / share,
        hardest=hardest,
        hardest_kept=hardest_kept,
    )


def pair_log_mass(
    batch: PairBatch, low: Tensor, high: Tensor, scale: float, scope: Scope = "batch"
) -> Tensor:
    """The virtual logit of `virtual_logit` from embeddings, in blocks, with its gradient to rows and columns.

    Args:
        batch: rows and columns may carry a graph.
        low: lowest cosine kept.
        high: highest.
        scale: s.
        scope: ``batch``: this process's *share* of the log-mass, a scalar; ``row``: ``[n]``, complete.

    Returns:
        Scalar or ``[n]``; -inf where no pair is left, with gradient 0.
    """
    mass: Tensor = _PairLogMass.apply(batch.rows, batch.columns, batch, low, high, scale, scope)  # type: ignore[no-untyped-call]
    return mass


class _PairLogMass(torch.autograd.Function):
    """u = log sum of exp(s cos) over the kept pairs; the gradient of a cosine is s exp(s cos - u)."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        batch: PairBatch,
        low: Tensor,
        high: Tensor,
        scale: float,
        scope: Scope,
    ) -> Tensor:
        masses = torch.cat(
            [
                (scale * cosines).masked_fill_(~_kept(cosines, negative, low, high), -torch.inf).logsumexp(1)
                for _, cosines, negative in batch.blocks()
            ]
        )
        mass = masses.logsumexp(0) - math.log(2) if scope == "batch" else masses
        ctx.save_for_backward(rows, columns, low, high, mass)
        ctx.scale, ctx.scope, ctx.batch = scale, scope, batch
        return mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, low, high, mass = ctx.saved_tensors
        # of an unordered pair both orders are counted, each half
        factor = ctx.scale * gradient * (0.5 if ctx.scope == "batch" else 1.0)
        # on one process the slopes of scope batch are symmetric: what goes to the columns goes to the rows as well
        symmetric = ctx.scope == "batch" and ctx.batch.rows is ctx.batch.columns
        to_rows, to_columns = torch.zeros_like(rows), None if symmetric else torch.zeros_like(columns)
        for part, cosines, negative in ctx.batch.blocks():
            kept = _kept(cosines, negative, low, high)
            level = mass if ctx.scope == "batch" else mass[part, None]
            slope = (
                (ctx.scale * cosines - level).exp_().masked_fill_(~kept, 0)
            )  # no kept pair: no -inf either
            slope *= factor if ctx.scope == "batch" else factor[part, None]
            to_rows[part] = slope @ columns
            if to_columns is not None:
                to_columns.addmm_(slope.T, rows[part])
        return 2 * to_rows if symmetric else to_rows, to_columns, None, None, None, None, None


def _count(batch: PairBatch) -> Tensor:
    """Ordered negative pairs whose first sample is this process's."""
    return (batch.row_labels[:, None] != batch.column_labels[None, :]).sum()


def _cosines_at(batch: PairBatch, places: Tensor) -> Tensor:
    return order_statistics(
        lambda: ((cosines, negative) for _, cosines, negative in batch.blocks()), places, batch.rows.dtype
    )


def _kept(cosines: Tensor, negative: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Pairs within the fences; a NaN is kept, so that it shows."""
    return negative & ~(cosines < low) & ~(cosines > high)


def _fences(first: Tensor, third: Tensor, whisker: float, side: Side) -> tuple[Tensor, Tensor]:
    reach = whisker * (third - first)
    return (first - reach if side == "both" else torch.full_like(first, -torch.inf)), third + reach


def _check(whisker: float | None, quartiles: str, side: str) -> None:
    if whisker is not None and not 0 <= whisker < math.inf:
        raise ValueError(f"whisker is {whisker}; give 0 or more, or None for no filter")
    for value, allowed in ((quartiles, ("index", "linear")), (side, ("both", "upper"))):
        if value not in allowed:
            raise ValueError(f"unknown name {value!r}; allowed are {', '.join(allowed)}")
