"""What all backbones have in common: the typed settings that rebuild them, and weights drawn from a seed."""

import abc
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.functional.draws import generator
from topoface.models.spec import LARGEST_SIZE, require_whole


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(abc.ABC):
    """Settings of one backbone; equal settings give the same layers, names and shapes.

    Attributes:
        dimension: width D of the embeddings.
        input_size: height and width in pixels of what the backbone sees.
        dropout: share of the last feature map set to zero in training, before the linear layer.
        trainable_scale: whether the last normalisation's scale is trained. The field freezes it at 1,
            since the head normalises the embeddings; the TopoFR release trains it.

    Raises:
        UserError: when a value is of the wrong type or out of range.
    """

    dimension: int = 512
    input_size: int = 112
    dropout: float = 0.0
    trainable_scale: bool = False

    def __post_init__(self) -> None:
        require_whole(self.dimension, "model.dimension", 1, LARGEST_SIZE)
        require_whole(self.input_size, "model.input_size", 16, LARGEST_SIZE)
        number = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool)
        if not number or not 0 <= self.dropout < 1:
            raise UserError(f"{self.dropout!r} is no share", "model.dropout", "write a number in [0, 1)")
        if not isinstance(self.trainable_scale, bool):
            raise UserError(
                f"{self.trainable_scale!r} is no switch", "model.trainable_scale", "write true or false"
            )

    @property
    def final_side(self) -> int:
        """Height and width of the last feature map: four times halved, rounded up."""
        return -(-self.input_size // 16)

    @abc.abstractmethod
    def build(self) -> nn.Module:
        """The network, on torch's current default device; call `blueprint` or `new_backbone` instead."""

    @abc.abstractmethod
    def initial_std(self, weight: Tensor) -> float:
        """Standard deviation of the normal draw for a convolution's or linear layer's weight."""


def require_four(values: object, where: str, high: int) -> None:
    """Refuse with a `UserError` what is not four whole numbers in ``1..high``, one a stage."""
    if not isinstance(values, tuple) or len(values) != 4:
        raise UserError(f"{values!r} is not one number for each of four stages", where, "write four numbers")
    for value in values:
        require_whole(value, where, 1, high)


def blueprint(config: BackboneConfig) -> nn.Module:
    """The network with names and shapes but without storage (on torch's meta device)."""
    with torch.device("meta"):
        return config.build()


def new_backbone(config: BackboneConfig, seed: int) -> nn.Module:
    """The backbone of ``config`` on the CPU with initial weights that depend on ``seed`` alone.

    Layers are made without storage and every tensor is then filled from its own stream, keyed by its
    name: torch's global generator is neither read nor moved, and a layer keeps its values when
    another one is added. Biases start at 0, normalisations at the identity, PReLU slopes at 0.25.
    """
    backbone = blueprint(config)
    backbone.to_empty(device="cpu")
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _draw(module, config.initial_std(module.weight), seed, name)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.PReLU):
            module.reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            raise TypeError(f"no rule to initialise {name}, a {type(module).__name__}")
    return backbone


@torch.no_grad()
def _draw(module: nn.Conv2d | nn.Linear, std: float, seed: int, name: str) -> None:
    values = generator(seed, f"weights {name}").standard_normal(tuple(module.weight.shape), dtype=np.float32)
    module.weight.copy_(torch.from_numpy(values).mul_(std))
    if module.bias is not None:
        module.bias.zero_()
