"""The softmax over very many classes, block by block: no logits of all classes are ever kept.

Forward runs over blocks of class centers with a running maximum and running sums (as in arXiv 1805.02867); backward computes each block's logits again.
That is one product more than keeping them, and still faster: a block stays in the cache where the whole would go through memory many times.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from topoface.functional.center_sgd import take_out_along
from topoface.functional.directions import unit_rows
from topoface.functional.products import fast_products
from topoface.functional.shards import ShardPart

Products = Literal["float32", "bfloat16"]
Sink = Callable[[int, Tensor, Tensor], None]

_ABSENT = -1e30  # the logit of a class that does not take part; finite, since 0 times infinity is no number
# logits that forward keeps for backward, 128 and 32 MiB of float32; what is more is computed again
_KEPT = {False: 2**25, True: 2**23}  # with a sink, memory is what it is for
_ELEMENTS = {
    "cpu": 2**20,
    "cuda": 2**26,
}  # logits of a block: in the cache of a core; enough work for an accelerator


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """Some rows of a table of class centers, read a block at a time: no copy of them all is made.

    Attributes:
        table: ``[C, D]``, detached.
        chosen: int64 ``[m]``, which rows.
        stand_in: ``[m, D]`` without values of its own (:func:`stand_in_for`): gets the gradient of the rows.
    """

    table: Tensor
    chosen: Tensor
    stand_in: Tensor

    def rows(self, which: slice | Tensor, out: Tensor | None = None) -> Tensor:
        """A copy ``[k, D]`` of the rows at some places of ``chosen``, in ``out`` if that is given."""
        return torch.index_select(self.table, 0, self.chosen[which], out=out)

    def values(self) -> Tensor:
        """All rows ``[m, D]`` as a copy after all, whose gradient goes to the stand-in."""
        rows: Tensor = _Values.apply(self.stand_in, self.table, self.chosen)  # type: ignore[no-untyped-call]
        return rows


def stand_in_for(table: Tensor, chosen: Tensor) -> Tensor:
    """Of the shape ``[m, D]`` of chosen rows, in the memory of one number: a leaf for their gradient."""
    return table.new_zeros(()).expand(len(chosen), table.shape[1])


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stand_in: Tensor, table: Tensor, chosen: Tensor) -> Tensor:  # noqa: ARG004
        return table[chosen]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ARG004
        return gradients[0], None, None


def class_part(
    rows: Tensor,
    centers: Tensor | DrawnRows,
    own: Tensor,
    scale: float,
    *,
    differentiable: bool = True,
    filter_above: float | None = None,
    products: Products = "float32",
    sink: Sink | None = None,
) -> ShardPart:
    """What a softmax over the given classes knows of each row (:class:`ShardPart`).

    Memory beyond the inputs and the gradients is one block, whatever the number of classes.

    Args:
        rows: unit embeddings ``[n, D]``.
        centers: class centers ``[c, D]``, not normalised, or rows drawn from a table of them; c may be 0.
        own: int64 ``[n]``, each row's own class as a position in ``centers``; -1 where it is not among them.
        scale: s, what cosines are multiplied with.
        differentiable: whether the entropy keeps its graph.
        filter_above: other classes whose cosine is above this leave the softmax of that row (and get no gradient from it).
        products: of what precision the products are; the own logit is float32 always. With bfloat16 logits are off by up to
            s / 256, gradients by about half a percent.
        sink: called in backward for each block of centers with its first row, the gradient ``[k, D]`` of the unit centers over their lengths,
            and the inverse lengths (see ``center_sgd.move_block``). It may move the block in place. ``centers`` itself gets no gradient.

    Returns:
        Gradients flow to ``rows`` and ``centers``.
    """
    leaf, drawn = (centers.stand_in, centers) if isinstance(centers, DrawnRows) else (centers, None)
    own_logit, log_mass, entropy = _ClassPart.apply(  # type: ignore[no-untyped-call]
        rows, leaf, own, scale, differentiable, filter_above, products, sink, drawn
    )
    return ShardPart(log_mass=log_mass, entropy=entropy, own=own_logit)


def released_entropy_part(
    rows: Tensor,
    centers: Tensor | DrawnRows,
    own: Tensor,
    scale: float,
    log_total: Tensor,
    log_epsilon: float,
    *,
    filter_above: float | None = None,
) -> Tensor:
    """-sum of p log(p + epsilon) over the given classes but each row's own ``[n]``, block by block as well.

    Args:
        rows: unit embeddings ``[n, D]``.
        centers: as in :func:`class_part`; rows that are drawn are copied.
        own: as there.
        scale: s.
        log_total: ``[n]``, log-sum-exp of all logits, the own one with its margin among them.
        log_epsilon: epsilon.
        filter_above: as in :func:`class_part`.
    """

    def of_block(rows: Tensor, block: Tensor, total: Tensor, first: int) -> Tensor:
        logits = scale * (rows @ unit_rows(block).T)
        logits = logits.masked_fill(_left_out(logits, own, first, filter_above, scale), _ABSENT)
        p = (logits - total[:, None]).exp()
        return released_entropy(p, log_epsilon).sum(1)

    if isinstance(centers, DrawnRows):
        centers = centers.values()
    total = 0 * log_total  # in the graph on a rank without classes too: the others wait for it in backward
    first = 0
    for block in torch.split(centers, _block_size(rows)) if len(centers) else ():
        if torch.is_grad_enabled():
            part = checkpoint(of_block, rows, block, log_total, first, use_reentrant=False)
        else:
            part = of_block(rows, block, log_total, first)
        total, first = total + part, first + len(block)
    return total


def released_entropy(probability: Tensor, log_epsilon: float) -> Tensor:
    """-p log(p + eps), entry by entry."""
    return -probability * (probability + log_epsilon).log()


def _block_size(rows: Tensor) -> int:
    return max(256, _ELEMENTS.get(rows.device.type, 2**20) // max(len(rows), 1))


def _left_out(logits: Tensor, own: Tensor, first: int, filter_above: float | None, scale: float) -> Tensor:
    """Which entries ``[n, k]`` of a block take no part: the own class, and those filtered."""
    columns = torch.arange(first, first + logits.shape[1], device=logits.device)
    absent = own[:, None] == columns
    return absent if filter_above is None else absent | (logits.detach() > scale * filter_above)


class _Blocks:
    """The blocks of one call: what forward and backward do alike."""

    def __init__(
        self,
        rows: Tensor,
        centers: Tensor,
        own: Tensor,
        inverse: Tensor | None,
        drawn: DrawnRows | None,
        scale: float,
        filter_above: float | None,
        products: Products,
    ) -> None:
        self.low = torch.bfloat16 if products == "bfloat16" else None
        self.scaled = scale * rows
        self.factor = self.scaled if self.low is None else self.scaled.to(self.low)
        self.centers, self.drawn = centers, drawn
        self.size = _block_size(rows)
        self.taken = drawn.table.new_empty(min(self.size, len(centers)), rows.shape[1]) if drawn else centers
        self.limit = None if filter_above is None else scale * filter_above
        self.own = own
        # the lengths do not change between forward and backward
        self.inverse = rows.new_empty(len(centers)) if inverse is None else inverse
        self.measured = 0 if inverse is None else len(centers)

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """First class, centers ``[k, D]``, the same in the precision of the products, and their inverse lengths."""
        for start in range(0, len(self.centers), self.size):
            stop = min(start + self.size, len(self.centers))
            if self.drawn is None:
                centers = self.centers[start:stop]
            else:
                centers = self.drawn.rows(slice(start, stop), out=self.taken[: stop - start])
            centers = centers.to(self.scaled.dtype)
            if self.measured < stop:
                lengths = torch.linalg.vector_norm(centers, dim=1, out=self.inverse[start:stop])
                lengths.masked_fill_(lengths == 0, 1.0).reciprocal_()
                self.measured = stop
            factor = centers if self.low is None else centers.to(self.low)
            yield start, centers, factor, self.inverse[start:stop]

    def put_own(self, block: Tensor, start: int, values: Tensor | float) -> None:
        """Write ``values`` ``[n]`` where a block ``[n, k]`` has a row's own class; without a look at which rows these are."""
        local = self.own - start
        here = (local >= 0) & (local < block.shape[1])
        slot = local.clamp(0, block.shape[1] - 1)[:, None]
        block.scatter_(1, slot, torch.where(here, values, block.gather(1, slot)[:, 0])[:, None])

    def logits(self, start: int, factor: Tensor, inverse: Tensor, out: Tensor | None) -> Tensor:
        """``[n, k]``, in ``out`` if that is given; own classes and those filtered are absent."""
        if self.low is None:
            logits = torch.mm(self.factor, factor.T, out=out)
        else:
            logits = (self.factor @ factor.T).to(self.scaled.dtype)
        logits *= inverse
        if self.limit is not None:
            logits.masked_fill_(logits > self.limit, _ABSENT)
        self.put_own(logits, start, _ABSENT)
        return logits


class _ClassPart(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        centers: Tensor,
        own: Tensor,
        scale: float,
        differentiable: bool,
        filter_above: float | None,
        products: Products,
        sink: Sink | None,
        drawn: DrawnRows | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, here = len(rows), own >= 0
        top = rows.new_full((n,), -1.5 * scale)  # below every cosine, above what is absent
        mass, weighted, own_logit = rows.new_zeros(n), rows.new_zeros(n), rows.new_zeros(n)
        room = _KEPT[sink is not None] if any(ctx.needs_input_grad) else 0
        kept: list[Tensor] = []
        ctx.inverse = None
        if len(centers):
            blocks = _Blocks(rows, centers, own, None, drawn, scale, filter_above, products)
            place = own.where(here, 0)
            own_centers = unit_rows((centers[place] if drawn is None else drawn.rows(place)).to(rows.dtype))
            own_logit = (blocks.scaled * own_centers).sum(1).where(here, 0)
            scratch, powers_scratch = rows.new_empty(2, n * blocks.size)
            with fast_products(rows):
                for start, block, factor, inverse in blocks:
                    shape, room = (n, len(block)), room - n * len(block)
                    place = scratch[: n * len(block)].view(shape)
                    logits = blocks.logits(
                        start, factor, inverse, rows.new_empty(shape) if room >= 0 else place
                    )
                    if room >= 0:
                        kept.append(logits)
                    before, top = top, torch.maximum(top, logits.amax(1))
                    falls = torch.sub(logits, top[:, None], out=place)
                    powers = torch.exp(falls, out=powers_scratch[: n * len(block)].view(shape))
                    # e^(l - m) and e^(l - m) (l - m), brought to the new maximum
                    fall = before - top
                    shrink = fall.exp()
                    weighted = shrink * (weighted + mass * fall) + torch.linalg.vecdot(powers, falls)
                    mass = shrink * mass + powers.sum(1)
            ctx.inverse = blocks.inverse
        filled = mass != 0  # NaN is something
        total = mass.where(filled, 1)
        log_mass = torch.where(filled, total.log() + top, -torch.inf)
        entropy = (total.log() - weighted / total).where(filled, 0)
        ctx.save_for_backward(rows, centers, own, log_mass, entropy)
        ctx.kept, ctx.sink = kept, sink
        ctx.settings = (drawn, scale, filter_above, products)
        ctx.set_materialize_grads(False)
        if not differentiable:
            ctx.mark_non_differentiable(entropy)
        return own_logit, log_mass, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        rows, centers, own, log_mass, entropy = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, []
        by_own, by_mass, by_entropy = gradients
        filled = log_mass != -torch.inf
        log_mass = log_mass.where(filled, 0)
        by_own = rows.new_zeros(len(rows)) if by_own is None else by_own
        by_mass = torch.zeros_like(by_own) if by_mass is None else by_mass.where(filled, 0)
        to_rows = torch.zeros_like(rows)
        to_centers = rows.new_empty(centers.shape) if ctx.needs_input_grad[1] else None
        if len(centers) == 0:
            return to_rows, to_centers, *[None] * 7
        blocks = _Blocks(rows, centers, own, ctx.inverse, *ctx.settings)
        n, scratch = len(rows), rows.new_empty(len(rows) * blocks.size)
        change = (
            rows.new_empty(min(blocks.size, len(centers)), rows.shape[1])
            if to_centers is None
            else to_centers
        )
        with fast_products(rows):
            for start, block, factor, inverse in blocks:
                place = scratch[: n * len(block)].view(n, len(block))
                logits = kept.pop(0) if kept else blocks.logits(start, factor, inverse, place)
                logits -= log_mass[:, None]
                if by_entropy is None:
                    gradient = logits.exp_()
                    gradient *= by_mass[:, None]
                else:  # of the entropy: -p (log p + H)
                    p = logits.exp()
                    logits += entropy[:, None]
                    gradient = p * (by_mass[:, None] - by_entropy[:, None] * logits)
                blocks.put_own(gradient, start, by_own)
                gradient *= inverse
                low = gradient if blocks.low is None else gradient.to(blocks.low)
                to_rows.addmm_(low, factor) if blocks.low is None else to_rows.add_(low @ factor)
                if to_centers is None and ctx.sink is None:
                    continue
                stop = start + len(block)
                out = change[: len(block)] if to_centers is None else change[start:stop]
                if blocks.low is None:
                    torch.mm(low.T, blocks.factor, out=out)
                else:
                    out.copy_(low.T @ blocks.factor)
                if ctx.sink is None:
                    take_out_along(out, block, inverse)
                else:
                    ctx.sink(start, out, inverse)
        to_rows *= ctx.settings[1]
        return to_rows, None if to_centers is None else to_centers.to(centers.dtype), *[None] * 7
