"""What can be set about TopoFR, and the named sets: the paper's, the release's, ours."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from topoface.errors import require
from topoface.functional.perturbation import MILD_RANGES, OPERATIONS, Operation, PerturbationRanges


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """RSP: random structure perturbation of the network's view; the clean images are never touched."""

    xi: float = 0.2
    """Probability that an image is perturbed, by one of four operations drawn uniformly; 0 switches RSP off."""
    operations: tuple[Operation, ...] = OPERATIONS
    """What is drawn from."""
    ranges: PerturbationRanges = field(default_factory=PerturbationRanges)
    """Strength of the operations; the released ones."""

    def __post_init__(self) -> None:
        require(0 <= self.xi <= 1, "xi", self.xi, "a probability lies in [0, 1]")
        require(len(self.operations) > 0, "operations", [], "name one or more, or set xi to 0")


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """ISA: invariant structure alignment."""

    form: Literal["paired", "sorted", "wasserstein1", "bottleneck", "random"] = "paired"
    """What is compared: the edges of both trees (paper, equation 2), sorted lengths (release), other distances
    of the two diagrams, or random edges (control)."""
    reduction: Literal["sum", "batch", "edges"] = "edges"
    """Divide the sum by 1, n or n - 1."""
    norm: Literal["none", "pixel_range", "mean_edge", "max"] = "mean_edge"
    """How lengths are scaled."""
    latent: Literal["raw", "sphere", "learned"] = "sphere"
    """Which vectors are measured."""
    scope: Literal["rank", "global"] = "rank"
    """Trees of each process's batch or of the global one."""
    view: Literal["clean", "perturbed"] = "clean"
    """Source images: clean, or the network's own view (the release before November 2024)."""
    source: Literal["pixels", "low_resolution", "luminance", "encoder", "teacher"] = "pixels"
    """Space whose structure is kept: pixels (paper); 16 x 16 pixels; grey pixels without brightness and contrast; a frozen
    encoder; a running average of the model itself (mean teacher), which costs a forward pass."""
    encoder: str = ""
    """For source encoder: a model directory, a .pt file of arcface_torch or an ONNX embedder, run in the loader; or the
    file that ``topoface embed`` wrote."""
    teacher_memory: float = 0.99
    """For source teacher: how much of the average a step leaves."""
    shortest_share: float = 1.0
    """Compare this share of each tree's edges, shortest first."""
    alpha: float = 0.1
    """Weight in alpha_mode fixed; 0 switches ISA off in either mode."""
    alpha_mode: Literal["fixed", "ratio"] = "ratio"
    """ratio: the weight that makes the gradient at the embeddings ``ratio`` times the classifier's."""
    ratio: float = 0.05
    """Share of gradient in alpha_mode ratio; 0 switches ISA off there."""
    warmup_epochs: float = 1.0
    """The weight rises linearly from 0 over these epochs."""

    def __post_init__(self) -> None:
        for name in ("alpha", "ratio", "warmup_epochs"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "give 0 or more")
        require(0 < self.shortest_share <= 1, "shortest_share", self.shortest_share, "give a share in (0, 1]")
        short = self.shortest_share < 1 and self.form != "paired"
        require(
            not short,
            "shortest_share",
            self.shortest_share,
            f"form {self.form} compares all edges: use paired",
        )
        require(0 <= self.teacher_memory < 1, "teacher_memory", self.teacher_memory, "give a share in [0, 1)")
        unscaled = self.source != "pixels" and self.norm in ("none", "pixel_range")
        require(
            not unscaled,
            "source",
            self.source,
            f"its unit is not that of norm {self.norm}: use mean_edge or max",
        )
        require(
            self.source == "pixels" or self.view == "clean",
            "source",
            self.source,
            "it is made from view clean",
        )
        require(
            (self.source == "encoder") == bool(self.encoder),
            "encoder",
            repr(self.encoder),
            "name one with source encoder, and only there",
        )
        free = self.latent == "learned" and self.norm in ("mean_edge", "max")
        require(not free, "latent", self.latent, f"norm {self.norm} has no scale to learn: use raw or sphere")

    @property
    def active(self) -> bool:
        """Whether there is an alignment term at all."""
        return self.alpha > 0 and (self.alpha_mode == "fixed" or self.ratio > 0)

    @property
    def met_by_shrinking(self) -> bool:
        """Whether a global change of scale of the embeddings changes the loss."""
        return self.latent == "raw" and self.norm in ("none", "pixel_range")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """SDE: structure damage estimation, omega = (1 + h)^lambda * (1 - p)."""

    uncertainty: bool = True
    """Factor (1 + h)^lambda, h from a Gaussian-uniform mixture over the entropies."""
    fit: Literal["ml", "moments", "eq7", "release", "online"] = "ml"
    """How the mixture is fitted; eq7 is the paper's, release the code's, online keeps running sums."""
    support: Literal["batch", "logC"] = "batch"
    """Upper end of the uniform part: largest entropy of the batch, or log of the number of identities."""
    iterations: int = 50
    """Of expectation maximisation."""
    floor: float = 0.01
    """Smallest deviation of the easy part in nats; keeps "hard" absolute."""
    lag: Literal[0, 1] = 0
    """1: weigh with the mixture of the (micro-)batch before."""
    entropy_from: Literal["margin", "plain"] = "margin"
    """Entropy and probability of the logits with or without margin."""
    focal: Literal["on", "off", "gate"] = "on"
    """Factor 1 - p; gate: 0 where p rounds to 1, which is all the release does."""
    temperature: float = 1.0
    """lambda."""
    gradient: Literal["none", "focal", "full"] = "none"
    """Let the gradient flow through no factor of omega, through 1 - p, or through both."""
    normalise: Literal["none", "mean"] = "none"
    """Divide omega by its batch mean."""
    cap: float | None = None
    """Largest omega, before it is divided by its mean."""

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "give 1 or more, usually 50")
        require(0 <= self.floor < math.inf, "floor", self.floor, "give nats, 0 or more")
        require(0 <= self.temperature < math.inf, "temperature", self.temperature, "give 0 or more")
        require(self.cap is None or self.cap > 0, "cap", self.cap, "give a positive number or null")
        through_gate = self.gradient != "none" and self.focal != "on"
        require(
            not through_gate,
            "gradient",
            self.gradient,
            f"focal {self.focal} has no gradient: use gradient none",
        )
        host = self.fit == "release" and (self.gradient == "full" or self.lag or self.support == "logC")
        require(not host, "fit", self.fit, "it knows no gradient full, no lag and no support logC: use ml")
        online = self.fit == "online" and (self.lag or self.support == "logC")
        require(not online, "fit", self.fit, "it knows no lag and no support logC: use ml")

    @property
    def active(self) -> bool:
        """Whether there is any weight at all."""
        return self.uncertainty or self.focal != "off"


_RELEASED_ALIGNMENT = {
    "norm": "pixel_range",
    "latent": "raw",
    "alpha_mode": "fixed",
    "alpha": 0.1,
    "warmup_epochs": 0.0,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "mild": {
        "rsp": {
            "ranges": {
                name: list(v) if isinstance(v, tuple) else v for name, v in asdict(MILD_RANGES).items()
            }
        }
    },
    "paper": {
        "isa": {"form": "paired", "reduction": "sum", **_RELEASED_ALIGNMENT},
        "sde": {"fit": "eq7", "focal": "on", "gradient": "focal"},
    },
    "release": {
        "isa": {"form": "sorted", "reduction": "batch", **_RELEASED_ALIGNMENT},
        "sde": {"fit": "release", "focal": "gate", "gradient": "none"},
    },
}
"""Arguments of TopoFR by name; ``mild`` is ours with a colour jitter that goes both ways."""
