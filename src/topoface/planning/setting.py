"""What is asked of the planner: identities, processes, backbone, head. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from topoface.errors import UserError, require
from topoface.planning.devices import DEVICES
from topoface.recipe.schema import construct, flatten, options_of
from topoface.recipe.yaml_files import from_yaml

HeadName = Literal["dense", "chunked", "chunked_fused", "partial_fc", "codes"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run to be planned."""

    identities: int
    """C, of the training faces; 2e6 will do."""
    gpus: int = 1
    """Processes that train together, one a device."""
    backbone: str = "iresnet50"
    """Registered architecture."""
    dimension: int = 512
    """Width D of the embedding."""
    batch: int = 128
    """Images of one device in a step: training.batch_size is this times gpus."""
    accumulation: int = 1
    """Micro-batches of a step, each a part of the batch: training.accumulation."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of the backbone; heads are float32."""
    sync_batchnorm: bool = True
    """Batch statistics of the global batch."""
    recompute: bool = False
    """Activation checkpointing: blocks of the backbone run twice and keep their input alone."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD keeps one number beside each parameter, AdamW two."""
    head: HeadName | None = None
    """The head whose parts are listed; null for the one that is recommended."""
    rate: float = 0.1
    """Of partial_fc: share of the identities that take part in a step."""
    alphabet: int = 256
    """Of codes: tokens at each position; a code is as long as it takes to name everyone."""
    device: str = "h100"
    """h100, a100, or this: the processor here, probed for some seconds."""
    memory_gib: float | None = None
    """Of one device; null for what the device has."""
    link_gb_s: float | None = None
    """What one device sends in a second, in 10^9 bytes; null for the device's own link within one machine."""

    def __post_init__(self) -> None:
        for key, least in (
            ("identities", 2),
            ("gpus", 1),
            ("dimension", 1),
            ("batch", 2),
            ("accumulation", 1),
            ("alphabet", 2),
        ):
            require(getattr(self, key) >= least, key, getattr(self, key), f"give {least} or more")
        parts, batch = self.accumulation, self.batch
        require(
            batch % parts == 0 and batch >= 2 * parts,
            "accumulation",
            parts,
            f"give a divisor of batch {batch} that leaves two images or more",
        )
        require(0 < self.rate <= 1, "rate", self.rate, "give a share in (0, 1], usually 0.1")
        for key in ("memory_gib", "link_gb_s"):
            value = getattr(self, key)
            require(value is None or value > 0, key, value, "give a positive number, or null")
        known = [*DEVICES, "this"]
        if self.device not in known:
            raise UserError(f"is {self.device!r}", "device", f"give one of: {', '.join(known)}")

    @property
    def shard(self) -> int:
        """c: rows of the largest shard of class centers."""
        return -(-self.identities // self.gpus)

    @property
    def rows(self) -> int:
        """N: embeddings that each shard sees at once, those of all processes."""
        return self.micro_batch * self.gpus

    @property
    def images(self) -> int:
        """Of a step, on all devices: training.batch_size."""
        return self.batch * self.gpus

    @property
    def micro_batch(self) -> int:
        """Images of one device that pass at once."""
        return self.batch // self.accumulation

    @property
    def moments(self) -> int:
        """Numbers that the optimizer keeps beside each parameter."""
        return 2 if self.optimizer == "adamw" else 1

    @property
    def code_length(self) -> int:
        """L: least with alphabet ** L >= identities."""
        length = 1
        while self.alphabet**length < self.identities:
            length += 1
        return length


def read_setting(texts: Sequence[str]) -> Setting:
    """A setting from ``key=value`` texts, the values in YAML; whole numbers may be written as 2e6.

    Raises:
        UserError: naming the key and the remedy.
    """
    options = options_of(Setting)
    tree = {}
    for text in texts:
        key, equals, value = text.removeprefix("--").partition("=")
        if not equals:
            raise UserError("is no key=value", text, "write it as in identities=2e6")
        read = from_yaml(value, text)
        whole = isinstance(read, float) and read.is_integer() and key in options and options[key].kind is int
        tree[key] = int(read) if whole else read
    return construct(Setting, tree, "", list(flatten(options.values())))
