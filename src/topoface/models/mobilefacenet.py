"""MobileFaceNet as arcface_torch builds it, under its parameter names."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from topoface.models.backbone import BackboneConfig, require_four
from topoface.models.batchnorm import normalised
from topoface.models.recompute import recomputed
from topoface.models.spec import require_whole

_LAST_CHANNELS = 512


@dataclass(frozen=True, kw_only=True)
class MobileFaceNetConfig(BackboneConfig):
    """Settings of a `MobileFaceNet`.

    Attributes:
        blocks: blocks in each of the four stages; with 1 the first stage is a single grouped convolution.
        width: multiple of the paper's 64 and 128 channels.
    """

    blocks: tuple[int, ...]
    width: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_four(self.blocks, "model.blocks", 200)
        require_whole(self.width, "model.width", 1, 16)

    def build(self) -> "MobileFaceNet":
        """The network of these settings."""
        return MobileFaceNet(self)

    def initial_std(self, weight: Tensor) -> float:
        """He et al. (arXiv:1502.01852) by fan-out, as arcface_torch."""
        return math.sqrt(2 / (weight.shape[0] * weight[0, 0].numel()))


class MobileFaceNet(nn.Module):
    """Inverted residuals and a global depthwise convolution (arXiv:1804.07573; wider, as arcface_torch).

    The inner widths (128, 256, 512) do not grow with ``width``, and the second layer has 64 groups
    whatever its channels: so is the network that the published weights belong to. Its last scale is
    trainable there and frozen here by default (see `BackboneConfig`); outputs do not differ.
    """

    def __init__(self, config: MobileFaceNetConfig) -> None:
        super().__init__()
        narrow, wide = 64 * config.width, 128 * config.width
        first = (
            _Convolution(narrow, narrow, 3, groups=64)
            if config.blocks[0] == 1
            else _Residuals(narrow, 128, config.blocks[0])
        )
        self.layers = nn.ModuleList(
            [
                _Convolution(3, narrow, 3, stride=2),
                first,
                _Bottleneck(narrow, narrow, 128, stride=2),
                _Residuals(narrow, 128, config.blocks[1]),
                _Bottleneck(narrow, wide, 256, stride=2),
                _Residuals(wide, 256, config.blocks[2]),
                _Bottleneck(wide, wide, 512, stride=2),
                _Residuals(wide, 256, config.blocks[3]),
            ]
        )
        self.conv_sep = _Convolution(wide, _LAST_CHANNELS, 1)
        self.features = _Embedding(config)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``[n, 3, S, S]`` to embeddings ``[n, D]``, not of unit length."""
        for layer in self.layers:
            x = layer(x)
        embeddings: Tensor = self.features(self.conv_sep(x))
        return embeddings


class _Layers(nn.Module):
    """Runs what lies under ``layers``: the prefix that arcface_torch's files carry at every depth."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Convolution(_Layers):
    """Convolution, normalisation and, unless ``linear``, PReLU; the map keeps its size at stride 1."""

    def __init__(
        self,
        inward: int,
        outward: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        conv = nn.Conv2d(inward, outward, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outward), *([] if linear else [nn.PReLU(outward)]))

    def forward(self, x: Tensor) -> Tensor:
        conv, *norm_and_activation = self.layers
        return normalised(conv(x), *norm_and_activation)


class _Bottleneck(_Layers):
    """Widen to ``inner`` channels, filter each by itself, narrow again without activation."""

    recompute = False

    def __init__(self, inward: int, outward: int, inner: int, *, stride: int = 1) -> None:
        super().__init__(
            _Convolution(inward, inner, 1),
            _Convolution(inner, inner, 3, stride=stride, groups=inner),
            _Convolution(inner, outward, 1, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return recomputed(self.layers, self, x) if self.recompute else super().forward(x)


class _ResidualBottleneck(_Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class _Residuals(_Layers):
    def __init__(self, channels: int, inner: int, count: int) -> None:
        super().__init__(*(_ResidualBottleneck(channels, channels, inner) for _ in range(count)))


class _Embedding(_Layers):
    """A learned weight for each place of the last map, then linear layer and normalisation, outside autocast."""

    def __init__(self, config: MobileFaceNetConfig) -> None:
        places = nn.Conv2d(
            _LAST_CHANNELS, _LAST_CHANNELS, config.final_side, groups=_LAST_CHANNELS, bias=False
        )
        scale = nn.BatchNorm1d(config.dimension)
        scale.weight.requires_grad = config.trainable_scale
        super().__init__(
            _Layers(places, nn.BatchNorm2d(_LAST_CHANNELS)),
            # One entry for two modules, because the indices are names in the file.
            nn.Sequential(nn.Flatten(), nn.Dropout(config.dropout)),
            nn.Linear(_LAST_CHANNELS, config.dimension, bias=False),
            scale,
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(next(self.parameters()).dtype))
