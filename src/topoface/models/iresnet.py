"""IResNet: the residual network of ArcFace, under arcface_torch's parameter names, and compact forms for CPUs."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.models.backbone import BackboneConfig, require_four
from topoface.models.batchnorm import normalised
from topoface.models.recompute import recomputed


@dataclass(frozen=True, kw_only=True)
class IResNetConfig(BackboneConfig):
    """Settings of an `IResNet`.

    Attributes:
        blocks: residual blocks in each of the four stages.
        widths: channels of each stage; the stem has those of the first.
        activation: ``"prelu"`` as published, or ``"relu"``: on a CPU PReLU is half of a training step.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    activation: str = "prelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_four(self.blocks, "model.blocks", 200)
        require_four(self.widths, "model.widths", 4096)
        if self.activation not in ("prelu", "relu"):
            raise UserError(f"{self.activation!r} is unknown", "model.activation", "write prelu or relu")

    def build(self) -> "IResNet":
        """The network of these settings."""
        return IResNet(self)

    def initial_std(self, weight: Tensor) -> float:
        """0.1 for convolutions, as arcface_torch; torch's own default variance for the linear layer."""
        return 0.1 if weight.ndim == 4 else 1 / math.sqrt(3 * weight.shape[1])


class IResNet(nn.Module):
    """Improved residual network (arXiv:1801.07698, section 3.1; names and order as arcface_torch).

    Each stage halves the map in its first block. Under autocast the trunk runs in the lower
    precision; the last linear layer and normalisation always run in the parameters' own, because
    losses and trees read the embeddings' differences.
    """

    def __init__(self, config: IResNetConfig) -> None:
        super().__init__()
        stem = config.widths[0]
        self.conv1 = _conv3x3(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.prelu = _activation(config.activation, stem)
        stages = [
            _stage(inward, outward, count, config.activation)
            for (inward, outward), count in zip(pairwise((stem, *config.widths)), config.blocks, strict=True)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(config.widths[-1])
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(config.widths[-1] * config.final_side**2, config.dimension)
        self.features = nn.BatchNorm1d(config.dimension)
        self.features.weight.requires_grad = config.trainable_scale

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``[n, 3, S, S]`` to embeddings ``[n, D]``, not of unit length."""
        x = normalised(self.conv1(x), self.bn1, self.prelu)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(torch.flatten(normalised(x, self.bn2), 1))
        with torch.autocast(x.device.type, enabled=False):
            embeddings: Tensor = self.features(self.fc(x.to(self.fc.weight.dtype)))
        return embeddings


class _Block(nn.Module):
    """Normalisation, convolution, normalisation, activation, strided convolution, normalisation; plus the input."""

    recompute = False

    def __init__(self, inward: int, outward: int, stride: int, activation: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inward)
        self.conv1 = _conv3x3(inward, outward)
        self.bn2 = nn.BatchNorm2d(outward)
        self.prelu = _activation(activation, outward)
        self.conv2 = _conv3x3(outward, outward, stride)
        self.bn3 = nn.BatchNorm2d(outward)
        self.downsample = _shortcut(inward, outward, stride)

    def forward(self, x: Tensor) -> Tensor:
        return recomputed(self._layers, self, x) if self.recompute else self._layers(x)

    def _layers(self, x: Tensor) -> Tensor:
        out = normalised(self.conv1(normalised(x, self.bn1)), self.bn2, self.prelu)
        out = normalised(self.conv2(out), self.bn3)
        out += x if self.downsample is None else normalised(self.downsample[0](x), self.downsample[1])
        return out


def _stage(inward: int, outward: int, count: int, activation: str) -> nn.Sequential:
    first = _Block(inward, outward, 2, activation)
    return nn.Sequential(first, *(_Block(outward, outward, 1, activation) for _ in range(count - 1)))


def _shortcut(inward: int, outward: int, stride: int) -> nn.Sequential | None:
    """Only a stage's first block changes the shape; the others add their input as it is."""
    if stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inward, outward, 1, stride, bias=False), nn.BatchNorm2d(outward))


def _conv3x3(inward: int, outward: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, 3, stride, padding=1, bias=False)


def _activation(name: str, channels: int) -> nn.Module:
    """Stands under the name ``prelu`` in either case: those of arcface_torch's files."""
    return nn.PReLU(channels) if name == "prelu" else nn.ReLU(inplace=True)
