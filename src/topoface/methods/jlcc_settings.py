"""What can be set about JLCC, and the named sets: each part alone and all together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from topoface.errors import require


@dataclass(frozen=True, kw_only=True)
class ClusterMargin:
    """Cluster-guided margin: m0 + delta * ramp * direction * hard level in [-1, 1]."""

    delta: float = 0.1
    """Largest shift, in the unit of the head's margin (radians; about 0.05 for CosFace); 0 switches the part off."""
    hard: Literal["silhouette", "center", "zscore", "posterior", "bcubed"] = "silhouette"
    """How badly a sample sits in its cluster: silhouette of own against nearest other center, distance to the own center,
    that distance within its class, the softmax over all centers, or how its cluster of nearest centers agrees with the labels
    (BCubed, worked out at the end of each epoch; says nothing once labels are memorised)."""
    level: Literal["sample", "class", "both"] = "sample"
    """Level of the sample, of its whole identity, or the average of both."""
    direction: Literal["easy", "hard"] = "easy"
    """Which samples get the larger margin; the abstract does not say."""

    def __post_init__(self) -> None:
        require(0 <= self.delta < math.pi / 2, "delta", self.delta, "give a shift in [0, pi/2), usually 0.1")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Supervised contrastive clustering: cross entropy of each embedding against all cluster centers."""

    weight: float = 0.3
    """lambda_scc; 0 switches the part off."""
    temperature: float = 0.1
    """tau: the cosines are divided by it."""
    scope: Literal["all", "sampled"] = "all"
    """Against all centers, or against those of the batch and a random share of the others."""
    share: float = 0.1
    """Of all identities, drawn in each step for scope sampled."""
    source: Literal["memory", "batch"] = "memory"
    """The own center of a sample: of the memory, or the mean of the other samples of its identity in the batch, which then get a gradient
    too (the memory's where there are none: wants data.sampling with several images of an identity)."""

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "weight", self.weight, "give 0 or more")
        # the exponential of an absent center is 0 for any such temperature
        require(
            1e-3 <= self.temperature <= 100, "temperature", self.temperature, "give 0.001 to 100, usually 0.1"
        )
        require(0 < self.share <= 1, "share", self.share, "give a share in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Aligning:
    """Cluster aligning: the learned class centers are pulled to the cluster centers of the batch's identities."""

    weight: float = 0.1
    """lambda_al; 0 switches the part off. For copy the share of the cluster center that is mixed in."""
    form: Literal["cosine", "nce", "copy"] = "cosine"
    """1 - cosine, or cross entropy of the class center against all cluster centers; or no loss: at the end of each epoch class
    centers are turned toward their cluster centers."""
    temperature: float = 0.1
    """Of nce."""

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "weight", self.weight, "give 0 or more")
        require(
            1e-3 <= self.temperature <= 100, "temperature", self.temperature, "give 0.001 to 100, usually 0.1"
        )
        require(
            self.form != "copy" or self.weight <= 1,
            "weight",
            self.weight,
            "form copy mixes in that share: give 1 or less",
        )


_MARGIN_OFF, _CONTRAST_OFF, _ALIGNING_OFF = {"delta": 0.0}, {"weight": 0.0}, {"weight": 0.0}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "margin": {"contrast": _CONTRAST_OFF, "align": _ALIGNING_OFF},
    "margin_hard": {"margin": {"direction": "hard"}, "contrast": _CONTRAST_OFF, "align": _ALIGNING_OFF},
    "contrast": {"margin": _MARGIN_OFF, "align": _ALIGNING_OFF},
    "align": {"margin": _MARGIN_OFF, "contrast": _CONTRAST_OFF},
    "watch": {"margin": _MARGIN_OFF, "contrast": _CONTRAST_OFF, "align": _ALIGNING_OFF, "watch": True},
}
"""Arguments of JLCC by name: the columns of the ablation; ``watch`` only looks and changes nothing in the training."""
