"""The typed recipe: one dataclass tree that says everything a run depends on. Imports no torch."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from topoface.errors import require

MOST_EPOCHS = 1e9
"""So that epochs can be counted in steps, however large the source."""


@dataclass(kw_only=True)
class Component:
    """A class to build: ours by its short name, yours by its import path."""

    class_path: str
    """Short name (``ArcFace``, ``TopoFR``) or import path (``my_package.MyHead``)."""
    preset: str | None = None
    """A named set of arguments that the class offers in ``PRESETS``; ``init_args`` go over it."""
    init_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the class; ``topoface recipes help NAME`` lists them with types and defaults."""


@dataclass(kw_only=True)
class DataConfig:
    """Where the faces come from and in which order."""

    train: str
    """Training faces: a folder of identity folders, a RecordIO folder or .rec file, or synthetic:?identities=100&images=10.

    FACES?least_images=8&most_images=8,2,1&seed=0 takes people with 8 images or more, and thins them to a long tail at random: a third keeps 8, a
    third 2, a third one."""
    sampling: Literal["uniform", "identity_balanced"] = "uniform"
    """Order: each image once an epoch, or P identities x K images a batch."""
    images_per_identity: int = 4
    """K of identity_balanced."""
    flip: bool = True
    """Mirror each image with probability one half."""
    threads: int = 1
    """Decoding threads of each process."""

    def __post_init__(self) -> None:
        k = self.images_per_identity
        require(k >= 1, "data.images_per_identity", k, "give 1 or more")
        require(self.threads >= 1, "data.threads", self.threads, "give 1 or more")


@dataclass(kw_only=True)
class ModelConfig:
    """The backbone."""

    name: str = "iresnet_compact"
    """Registered architecture."""
    dimension: int = 128
    """Width D of the embedding."""
    dropout: float = 0.0
    """Before the last linear layer."""
    trainable_scale: bool = False
    """Train the scale of the last BatchNorm (the TopoFR release does; arcface_torch freezes it at 1)."""
    channels_last: bool = True
    """Memory layout of the convolutions."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the backbone; cosines, losses, trees and statistics are always float32."""
    compile: bool = False
    """torch.compile the backbone: pays off in long runs only."""
    recompute: bool = False
    """Activation checkpointing: keep each block's input alone and compute the rest again in backward. For big backbones: less memory, more time."""
    sync_batchnorm: bool = True
    """With several processes: batch statistics of the global batch, so that they equal one process."""

    def __post_init__(self) -> None:
        require(self.dimension >= 1, "model.dimension", self.dimension, "give 1 or more, usually 128 or 512")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "give a share in [0, 1)")
        both = self.recompute and self.compile
        require(
            not both,
            "model.recompute",
            True,
            "give false: with model.compile the compiler decides that itself",
        )


@dataclass(kw_only=True)
class OptimizerConfig:
    """How parameters move."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Optimizer."""
    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Of SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: float = 5e-4
    """On matrices and kernels; none on biases, norms, PReLU slopes and method parameters unless decay_all."""
    decay_all: bool = False
    """Decay every parameter, as arcface_torch does."""
    clip_norm: float | None = 5.0
    """Largest gradient norm of the backbone; null for none."""
    clip_head: bool = False
    """Include the class centers in the clipped norm, as the TopoFR release does."""

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "optimizer.lr", self.lr, "give a positive number")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "give a number in [0, 1)")
        needs_momentum = self.nesterov and self.name == "sgd"
        require(
            not needs_momentum or self.momentum > 0, "optimizer.nesterov", True, "give momentum above 0 too"
        )
        require(
            all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "give two numbers in [0, 1)"
        )
        decay, clip = self.weight_decay, self.clip_norm
        require(0 <= decay < math.inf, "optimizer.weight_decay", decay, "give 0 or more")
        require(
            clip is None or 0 < clip < math.inf,
            "optimizer.clip_norm",
            clip,
            "give a positive number, or null for none",
        )


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate as a function of the step."""

    name: Literal["polynomial", "cosine", "constant"] = "cosine"
    """Shape after the warm-up."""
    warmup_epochs: float = 1.0
    """Linear from 0 to the peak."""
    power: float = 2.0
    """Of polynomial."""

    def __post_init__(self) -> None:
        warmup = self.warmup_epochs
        require(0 <= warmup <= MOST_EPOCHS, "schedule.warmup_epochs", warmup, f"give 0 to {MOST_EPOCHS:,.0f}")
        require(0 < self.power < math.inf, "schedule.power", self.power, "give a positive number")


@dataclass(kw_only=True)
class TrainingConfig:
    """How long, how large, how safe."""

    epochs: float = 20.0
    """Passes over the training faces; ignored when steps is given."""
    steps: int | None = None
    """Optimizer steps."""
    batch_size: int = 128
    """Global batch of one optimizer step, over all processes and micro-batches."""
    accumulation: int = 1
    """Micro-batches per optimizer step."""
    seed: int = 0
    """Of everything that is random."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:0."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one is always written at the end and on CTRL-C."""
    keep_last: int = 2
    """Checkpoints kept."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard files (extra tb)."""

    def __post_init__(self) -> None:
        require(
            0 < self.epochs <= MOST_EPOCHS,
            "training.epochs",
            self.epochs,
            f"give more than 0, and at most {MOST_EPOCHS:,.0f}",
        )
        require(
            self.steps is None or self.steps >= 1, "training.steps", self.steps, "give 1 or more, or null"
        )
        for key in ("batch_size", "accumulation", "checkpoint_every", "keep_last", "log_every"):
            require(getattr(self, key) >= 1, f"training.{key}", getattr(self, key), "give 1 or more")
        parts, batch = self.accumulation, self.batch_size
        require(batch % parts == 0, "training.accumulation", parts, f"give a divisor of batch_size {batch}")
        require(self.seed >= 0, "training.seed", self.seed, "give 0 or more")
        known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        require(known is not None, "training.device", self.device, "give auto, cpu, cuda or cuda:0")


@dataclass(kw_only=True)
class EvaluationConfig:
    """What the trained model is judged on."""

    pairs: list[str] = field(default_factory=list)
    """Verification protocols: a .bin, a manifest, IMAGES::PAIRS (zip or folder, and its pairs file), or RFW's folder."""
    every_epochs: float | None = None
    """Also evaluate during training; null for the end only."""
    flip: bool = True
    """Average the embedding with that of the mirrored image."""
    bootstrap: int = 1000
    """Replicates of the identity bootstrap."""

    def __post_init__(self) -> None:
        every = self.every_epochs
        require(
            every is None or 0 < every <= MOST_EPOCHS,
            "evaluation.every_epochs",
            every,
            "give a positive number, or null for the end only",
        )
        require(self.bootstrap >= 0, "evaluation.bootstrap", self.bootstrap, "give 0 for none, or more")


@dataclass(kw_only=True)
class Recipe:
    """Everything a run depends on."""

    data: DataConfig
    """Faces and their order."""
    head: Component
    """Class supervision."""
    methods: list[Component] = field(default_factory=list)
    """Published methods that change the step, in this order."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Backbone."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over time."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length, batch, safety."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Judging."""
    run_dir: str = "runs/{name}"
    """Folder of the run; {name} is the recipe's file name."""

    def __post_init__(self) -> None:
        k, batch = self.data.images_per_identity, self.training.batch_size
        balanced = self.data.sampling == "identity_balanced"
        require(
            not balanced or batch % k == 0,
            "data.images_per_identity",
            k,
            f"give a divisor of batch_size {batch}",
        )


SHORT_NAMES = {
    "ArcFace": "topoface.heads.ArcFace",
    "CosFace": "topoface.heads.CosFace",
    "CombinedMargin": "topoface.heads.CombinedMargin",
    "MagFace": "topoface.heads.MagFace",
    "AdaFace": "topoface.heads.AdaFace",
    "Softmax": "topoface.heads.Softmax",
    "IdentityCode": "topoface.heads.IdentityCode",
    "Composed": "topoface.heads.Composed",
    "PartialFC": "topoface.heads.PartialFC",
    "TopoFR": "topoface.methods.TopoFR",
    "UNPG": "topoface.methods.UNPG",
    "JLCC": "topoface.methods.JLCC",
    "GIF": "topoface.methods.GIF",
}
