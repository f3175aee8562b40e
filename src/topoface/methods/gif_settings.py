"""What can be set about GIF, and the named sets: what is published, ours, and the baselines that tell what a gain is due to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from topoface.errors import require


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Pull of each embedding to the code vector of its identity."""

    weight: float = 1.0
    """gamma; 0 switches the part off."""
    form: Literal["paper", "cosine"] = "paper"
    """(c - 1)^2 / 2 of the cosine c, or 1 - c, which does not fade as c nears 1."""

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "weight", self.weight, "give 0 or more")


@dataclass(frozen=True, kw_only=True)
class VectorSoftmax:
    """Softmax over the code vectors beside the head's own loss: the head ``Composed``, which explains the settings, as a term."""

    weight: float = 0.0
    """Of its mean loss; 0 switches the part off."""
    centers: Literal["composed", "frozen", "books"] = "composed"
    """What the class centers are."""
    negatives: int | None = 4096
    """Identities drawn in each step; null for all."""
    neighbours: int = 0
    """Nearest code vectors that join the negatives of a row."""
    scale: float = 32.0
    """s."""
    margin: float = 0.2
    """Subtracted from the own cosine."""

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "weight", self.weight, "give 0 or more")


_NO_REGRESSION = {"weight": 0.0}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "cosine": {"regression": {"form": "cosine"}},
    "ours": {"regression": _NO_REGRESSION, "softmax": {"weight": 1.0}},
    "frozen_all": {
        "regression": _NO_REGRESSION,
        "softmax": {"weight": 1.0, "centers": "frozen", "negatives": None},
    },
    "frozen_sampled": {"regression": _NO_REGRESSION, "softmax": {"weight": 1.0, "centers": "frozen"}},
    "frozen_local": {
        "regression": _NO_REGRESSION,
        "softmax": {"weight": 1.0, "centers": "frozen", "neighbours": 32},
    },
    "watch": {"regression": _NO_REGRESSION},
}
"""Arguments of GIF by name; ``watch`` only logs the cosine to the code vectors and changes nothing in the training."""
