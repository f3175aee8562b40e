"""What each head needs: memory, bytes sent, work. Formulas that tests hold to measurements; imports no torch.

c: rows of the shard of class centers, N: embeddings that it sees at once, D: their width; a table is 4 c D bytes, the logits 4 N c. All of it passes
once in each micro-batch, the optimizer and the gradients of the backbone once a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from topoface.planning.setting import HeadName, Setting

BLOCK_LOGITS = {"cpu": 2**20, "cuda": 2**26}
KEPT_LOGITS = {False: 2**25, True: 2**23}
"""As in ``functional/blocked_softmax.py``: logits of a block, and those that forward keeps, without and with SGD in the blocks."""

Operation = Literal["all_reduce", "all_gather", "broadcast"]
MOMENTS = {"sgd": "momentum of {}", "adamw": "both moments of {}"}

EXPLAINED: Mapping[HeadName, str] = {
    "dense": "softmax with all logits in memory, as commonly written; not among our heads",
    "chunked": "ArcFace, CosFace and the other softmax heads as they are: block by block, exact",
    "chunked_fused": "the same with head.init_args.fused=true: SGD in each block, no gradient of all class centers",
    "partial_fc": "PartialFC, or head.init_args.rate of any: softmax over a share of the identities",
    "codes": "IdentityCode: other mathematics, no row an identity",
}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Collective operations of one kind in one step.

    Attributes:
        what: they carry.
        operation: of torch.distributed.
        bytes: that each device hands over, in all calls together.
        calls: of it.
    """

    what: str
    operation: Operation
    bytes: float
    calls: int = 1

    def on_the_wire(self, devices: int) -> float:
        """Bytes that each device sends, in a ring."""
        if self.operation == "all_reduce":
            return 2 * (devices - 1) / devices * self.bytes
        return (devices - 1) * self.bytes if self.operation == "all_gather" else self.bytes


@dataclass(frozen=True, kw_only=True)
class HeadCost:
    """Of one head on one device, in bytes.

    Attributes:
        name: of the head.
        kept: between steps, by what they are for.
        passing: at the peak of forward and backward, beside what is kept; gradients of the head's parameters among them.
        gradient: of these, what stays until the optimizer has run.
        moving: copies that the optimizer makes of it meanwhile.
        sent: in a step.
        flops: of products.
        traffic: read and written, optimizer included.
    """

    name: HeadName
    kept: Mapping[str, float]
    passing: Mapping[str, float]
    gradient: float
    moving: float
    sent: tuple[Sent, ...]
    flops: float
    traffic: float


def head_cost(name: HeadName, setting: Setting) -> HeadCost:
    """The head of that name; tables with a row an identity are cut over the devices."""
    if name == "partial_fc" and setting.rate == 1:
        return _chunked(setting, name)
    return {"dense": _dense, "partial_fc": _partial_fc, "codes": _codes}.get(name, _chunked)(setting, name)


def _dense(setting: Setting, name: HeadName) -> HeadCost:
    c, n, d = setting.shard, setting.rows, setting.dimension
    table, logits, passes = 4.0 * c * d, 4.0 * n * c, setting.accumulation
    # either unit centers and four copies of the logits are alive, or five of the size of the centers: both were measured
    peak = max(table + 4 * logits, 5 * table) + _gradient_before(setting, table)
    return HeadCost(
        name=name,
        kept=_tables(setting, table),
        passing={"logits and gradients": peak, **_embeddings(setting)},
        gradient=table,
        moving=_copied_by_optimizer(setting, table),
        sent=_sent_by_shards(setting),
        flops=passes * 6.0 * n * c * d,
        traffic=passes * (31 * table + 22 * logits) + moved_by_optimizer(setting, table),
    )


def _chunked(setting: Setting, name: HeadName) -> HeadCost:
    table, fused = 4.0 * setting.shard * setting.dimension, name == "chunked_fused"
    gradient, passes = 0.0 if fused else table, setting.accumulation
    blocks = _blocks(setting, setting.shard, gradient=gradient, fused=fused)
    # where the centers are cut, their gradient is divided by the number of devices into a copy, when the blocks are gone
    copy = gradient if setting.gpus > 1 else 0.0
    return HeadCost(
        name=name,
        kept=_tables(setting, table),
        passing={
            **({} if fused else {"gradient of the centers": table + _gradient_before(setting, table)}),
            "logits kept": blocks.kept,
            "blocks": max(blocks.peak, copy - blocks.kept),
            **_embeddings(setting),
        },
        gradient=gradient,
        moving=_copied_by_optimizer(setting, gradient),
        sent=_sent_by_shards(setting),
        flops=passes * blocks.flops,
        traffic=passes * blocks.traffic + (2 * table if fused else moved_by_optimizer(setting, table)),
    )


def _partial_fc(setting: Setting, name: HeadName) -> HeadCost:
    c, d, here, passes = setting.shard, setting.dimension, setting.device == "this", setting.accumulation
    drawn = max(min(setting.rows, c), round(setting.rate * c))
    table, rows = 4.0 * c * d, 4.0 * drawn * d
    blocks = _blocks(setting, drawn, gradient=rows, drawn=True)
    # compiled loops move rows in place; torch's operations copy them and their momentum
    catching_up = 0.0 if here else 5 * rows - blocks.kept
    moving = 0.0 if here else 3 * rows
    merged = (
        (passes + 1) * rows if passes > 1 else 0.0
    )  # gradients of all micro-batches, one after the other, then summed
    copy = rows - blocks.kept if setting.gpus > 1 else 0.0
    return HeadCost(
        name=name,
        kept={**_tables(setting, table), "step that each row is at": 4.0 * c},
        passing={
            "gradients of the rows drawn": passes * rows,
            **({"numbers drawn": 9.0 * setting.identities} if here else {}),
            "logits kept": blocks.kept,
            "blocks": max(blocks.peak, catching_up, copy),
            **_embeddings(setting),
        },
        gradient=passes * rows,
        moving=max(merged, moving + (rows if passes > 1 else 0.0)),
        sent=_sent_by_shards(setting),
        flops=passes * blocks.flops,
        traffic=passes * (blocks.traffic + 11 * rows),
    )


def _codes(setting: Setting, name: HeadName) -> HeadCost:
    """Token centers, on every device; identities are not among them."""
    tokens, d, n = setting.alphabet * setting.code_length, setting.dimension, setting.micro_batch
    several, passes = setting.gpus > 1, setting.accumulation
    table, logits = 4.0 * tokens * d, 4.0 * n * tokens
    gradients = Sent(what="gradients of the token centers", operation="all_reduce", bytes=table)
    return HeadCost(
        name=name,
        kept=_tables(setting, table),
        passing={
            "logits and gradients": 5 * table + 6 * logits + 20.0 * n * d + _gradient_before(setting, table),
            **({"buckets of gradients": table} if several else {}),
        },
        gradient=table,
        moving=0.0,
        sent=(gradients,) if several else (),
        flops=passes * 6.0 * n * tokens * d,
        traffic=passes * (31 * table + 30 * logits) + moved_by_optimizer(setting, table),
    )


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Of the softmax by blocks: bytes kept from forward, bytes of blocks at the peak, products, bytes read and written."""

    kept: float
    peak: float
    flops: float
    traffic: float


def _blocks(
    setting: Setting, classes: int, *, gradient: float, fused: bool = False, drawn: bool = False
) -> _Blocks:
    """Over so many class centers, whose gradient takes that many bytes; drawn ones are copied a block at a time."""
    n, d = setting.rows, setting.dimension
    size = max(256, BLOCK_LOGITS["cpu" if setting.device == "this" else "cuda"] // n)
    width = min(size, classes)
    kept = min(KEPT_LOGITS[fused] // (n * width) * width, classes)
    logits, centers = 4.0 * n * size, 4.0 * width * d
    read = 4.0 * classes + (centers if drawn else 0.0)  # lengths of the centers, and a block of them
    return _Blocks(
        kept=4.0 * n * kept,
        peak=read + max(2 * logits + 4.0 * n * width - gradient, logits + (centers if fused else 0.0)),
        flops=(6 + 2 * (1 - kept / classes)) * n * classes * d,
        traffic=10 * 4.0 * classes * d + 8 * 4.0 * n * classes,
    )


def _tables(setting: Setting, table: float) -> dict[str, float]:
    return {"centers": table, MOMENTS[setting.optimizer].format("the centers"): setting.moments * table}


def _gradient_before(setting: Setting, table: float) -> float:
    """Of the micro-batches before, which that of this one is added to."""
    return table if setting.accumulation > 1 else 0.0


def _copied_by_optimizer(setting: Setting, gradient: float) -> float:
    """Where the centers are cut, torch's optimizers move the table as a whole, through copies."""
    return setting.moments * gradient if setting.gpus > 1 else 0.0


def moved_by_optimizer(setting: Setting, table: float) -> float:
    """Read and written by the optimizer: center, gradient, and what it keeps of each."""
    return (3 + 2 * setting.moments) * table


def _embeddings(setting: Setting) -> dict[str, float]:
    """Rows of all devices: as gathered, scaled, their gradient, and one more while it is summed; the labels."""
    return {"embeddings of all": (16.0 * setting.dimension + 8) * setting.rows}


def _sent_by_shards(setting: Setting) -> tuple[Sent, ...]:
    """By ``heads/logits.py``: embeddings and labels of all, three numbers a row back, and the gradients of both."""
    if setting.gpus == 1:
        return ()
    own, everyone, d = setting.micro_batch, setting.rows, setting.dimension
    passes = setting.accumulation

    def each_pass(what: str, operation: Operation, count: float) -> Sent:
        return Sent(what=what, operation=operation, bytes=passes * count, calls=passes)

    return (
        each_pass("labels", "all_gather", 8.0 * own),
        each_pass("embeddings", "all_gather", 4.0 * own * d),
        each_pass("three numbers a row", "all_gather", 12.0 * everyone),
        each_pass("gradients of the embeddings", "all_reduce", 4.0 * everyone * d),
        each_pass("gradients of these numbers", "all_reduce", 12.0 * everyone * setting.gpus),
    )
