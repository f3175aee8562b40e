"""What each head needs: memory, bytes sent, work. Formulas that tests hold to measurements; imports no torch.

c: rows of the shard of class centers, N: embeddings that it sees, D: their width; a table is 4 c D bytes, the logits 4 N c.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from topoface.planning.setting import HeadName, Setting

BLOCK_LOGITS = {"cpu": 2**20, "cuda": 2**26}
KEPT_LOGITS = {False: 2**25, True: 2**23}
"""As in ``functional/blocked_softmax.py``: logits of a block, and those that forward keeps, without and with SGD in the blocks."""

EXPLAINED: Mapping[HeadName, str] = {
    "dense": "softmax with all logits in memory, as commonly written; not among our heads",
    "chunked": "ArcFace, CosFace and the other softmax heads: block by block, exact",
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
    operation: Literal["all_reduce", "all_gather", "broadcast"]
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
        sent: in a step.
        flops: of products.
        traffic: read and written, optimizer included.
    """

    name: HeadName
    kept: Mapping[str, float]
    passing: Mapping[str, float]
    gradient: float
    sent: tuple[Sent, ...]
    flops: float
    traffic: float


def head_cost(name: HeadName, setting: Setting) -> HeadCost:
    """The head of that name; tables with a row an identity are cut over the devices."""
    return {"dense": _dense, "partial_fc": _partial_fc, "codes": _codes}.get(name, _chunked)(setting, name)


def _dense(setting: Setting, name: HeadName) -> HeadCost:
    c, n, d = setting.shard, setting.rows, setting.dimension
    table, logits = 4.0 * c * d, 4.0 * n * c
    # either unit centers and four copies of the logits are alive, or five of the size of the centers: both were measured
    return HeadCost(
        name=name,
        kept=_tables(table),
        passing={"logits and gradients": max(table + 4 * logits, 5 * table), **_embeddings(setting)},
        gradient=table,
        sent=_sent_by_shards(setting),
        flops=6.0 * n * c * d,
        traffic=31 * table + 22 * logits + 5 * table,
    )


def _chunked(setting: Setting, name: HeadName) -> HeadCost:
    table, fused = 4.0 * setting.shard * setting.dimension, name == "chunked_fused"
    blocks = _blocks(setting, setting.shard, gradient=0.0 if fused else table)
    return HeadCost(
        name=name,
        kept=_tables(table),
        passing={
            **({} if fused else {"gradient of the centers": table}),
            "logits kept": blocks.kept,
            "blocks": blocks.peak,
            **_embeddings(setting),
        },
        gradient=0.0 if fused else table,
        sent=_sent_by_shards(setting),
        flops=blocks.flops,
        traffic=blocks.traffic + (2 if fused else 5) * table,
    )


def _partial_fc(setting: Setting, name: HeadName) -> HeadCost:
    c, d, here = setting.shard, setting.dimension, setting.device == "this"
    drawn = max(min(setting.rows, c), round(setting.rate * c))
    table, rows = 4.0 * c * d, 4.0 * drawn * d
    blocks = _blocks(setting, drawn, gradient=rows)
    # compiled loops move rows in place; torch's operations copy them and their momentum, when the blocks are gone
    copies = 0.0 if here else max(4 * rows - blocks.kept - blocks.peak, 0.0)
    return HeadCost(
        name=name,
        kept={**_tables(table), "step that each row is at": 4.0 * c},
        passing={
            "rows drawn and their gradients": 2 * rows + copies,
            **({"numbers drawn": 9.0 * setting.identities} if here else {}),
            "logits kept": blocks.kept,
            "blocks": blocks.peak,
            **_embeddings(setting),
        },
        gradient=2 * rows + copies,
        sent=_sent_by_shards(setting),
        flops=blocks.flops,
        traffic=blocks.traffic + 11 * rows,
    )


def _codes(setting: Setting, name: HeadName) -> HeadCost:
    """Token centers, on every device; identities are not among them."""
    tokens, d, several = setting.alphabet * setting.code_length, setting.dimension, setting.gpus > 1
    table, logits = 4.0 * tokens * d, 4.0 * setting.batch * tokens
    gradients = Sent(what="gradients of the token centers", operation="all_reduce", bytes=table)
    return HeadCost(
        name=name,
        kept=_tables(table),
        passing={
            "logits and gradients": 5 * table + 6 * logits + 20.0 * setting.batch * d,
            **({"buckets of gradients": table} if several else {}),
        },
        gradient=table,
        sent=(gradients,) if several else (),
        flops=6.0 * setting.batch * tokens * d,
        traffic=36 * table + 30 * logits,
    )


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Of the softmax by blocks: bytes kept from forward, bytes of blocks at the peak, products, bytes read and written."""

    kept: float
    peak: float
    flops: float
    traffic: float


def _blocks(setting: Setting, classes: int, *, gradient: float) -> _Blocks:
    """Over so many class centers, whose gradient takes that many bytes; 0 where SGD runs in the blocks."""
    n, d, fused = setting.rows, setting.dimension, gradient == 0
    size = max(256, BLOCK_LOGITS["cpu" if setting.device == "this" else "cuda"] // n)
    width = min(size, classes)
    kept = min(KEPT_LOGITS[fused] // (n * width) * width, classes)
    forward, backward = 3 * 4.0 * n * width, 4.0 * n * size + (4.0 * size * d if fused else 0.0)
    return _Blocks(
        kept=4.0 * n * kept,
        peak=max(forward - gradient, backward),
        flops=(6 + 2 * (1 - kept / classes)) * n * classes * d,
        traffic=10 * 4.0 * classes * d + 8 * 4.0 * n * classes,
    )


def _tables(table: float) -> dict[str, float]:
    return {"centers": table, "momentum of the centers": table}


def _embeddings(setting: Setting) -> dict[str, float]:
    """Rows of all devices: as gathered, scaled, their gradient, and one more while it is summed; the labels."""
    return {"embeddings of all": (16.0 * setting.dimension + 8) * setting.rows}


def _sent_by_shards(setting: Setting) -> tuple[Sent, ...]:
    """By ``heads/logits.py``: embeddings and labels of all, three numbers a row back, and the gradients of both."""
    if setting.gpus == 1:
        return ()
    own, everyone, d = setting.batch, setting.rows, setting.dimension
    return (
        Sent(what="labels", operation="all_gather", bytes=8.0 * own),
        Sent(what="embeddings", operation="all_gather", bytes=4.0 * own * d),
        Sent(what="three numbers a row", operation="all_gather", bytes=12.0 * everyone),
        Sent(what="gradients of the embeddings", operation="all_reduce", bytes=4.0 * everyone * d),
        Sent(what="gradients of these numbers", operation="all_reduce", bytes=12.0 * everyone * setting.gpus),
    )
