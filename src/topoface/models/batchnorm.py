"""Batch normalisation with the activation behind it: fast on a CPU, and over the batch of all processes, which torch's own refuses there."""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.functional.collectives import sum_over_ranks, world_size
from topoface.functional.normalisation import loops_can_normalise, normalise

_WORTH_IT = 2**18  # values of a batch: below that torch's own two nodes cost less than handing the work over


def synchronise_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d and BatchNorm2d by one whose training statistics span all processes.

    Parameters and buffers are taken over as they are (the same objects, under the same names), so
    optimizers and state dicts do not notice. In evaluation mode, and without a process group or with a
    single process, the result is `torch.nn.BatchNorm`'s own, bit for bit.

    A model on CUDA gets `torch.nn.SyncBatchNorm`, the same mathematics in fused kernels (not run by
    us: no machine with two GPUs).

    Args:
        module: changed in place.

    Returns:
        The module, or what replaces it if it is itself a normalisation.
    """
    if any(parameter.is_cuda for parameter in module.parameters()):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return _GlobalBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batchnorm(child))
    return module


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Two passes, each ending in one differentiable all-reduce of a value per channel.

    The mean comes first and squares are summed around it, so nothing cancels when the mean is large
    against the deviation. Processes may hold different numbers of rows, or none.
    """

    def __init__(self, local: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__(0, local.eps, local.momentum, affine=False, track_running_stats=False)
        self.num_features = local.num_features
        self.affine = local.affine
        self.track_running_stats = local.track_running_stats
        self._parameters = local._parameters
        self._buffers = local._buffers
        self.training = local.training

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Any input with channels in the second dimension will do."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise ``[n, C]`` or ``[n, C, H, W]`` by mean and variance of the global batch."""
        alone = world_size() == 1
        if alone or not (self.training or self.running_mean is None):
            return super().forward(input)
        rows = input.to(torch.promote_types(input.dtype, torch.float32))  # bf16 cannot hold the sums
        others = [dimension for dimension in range(rows.ndim) if dimension != 1]
        shape = [1, -1, *[1] * (rows.ndim - 2)]

        count = rows.new_tensor([rows.numel() // rows.shape[1]])
        total = sum_over_ranks(torch.cat([rows.sum(others), count]))
        mean, count = total[:-1] / total[-1].detach(), total[-1].detach()
        _require_two(int(count))
        centred = rows - mean.view(shape)
        squares = sum_over_ranks(centred.square().sum(others))
        variance = squares / count
        _track(self, mean.detach(), squares.detach() / (count - 1))

        gain = (variance + self.eps).rsqrt()
        out = centred * (gain * self.weight if self.affine else gain).view(shape)
        return (out + self.bias.view(shape) if self.affine else out).to(input.dtype)


def normalised(x: Tensor, norm: nn.Module, activation: nn.Module | None = None) -> Tensor:
    """``activation(norm(x))``; in training on a CPU in compiled loops, which go over the memory half as often.

    Args:
        x: ``[n, C, H, W]``.
        norm: a BatchNorm2d, or what `synchronise_batchnorm` made of one; its running statistics move.
        activation: ReLU or PReLU.
    """
    over_ranks = isinstance(norm, _GlobalBatchNorm) and world_size() > 1
    if not (_in_training(norm) and (over_ranks or x.numel() >= _WORTH_IT) and loops_can_normalise(x)):
        out: Tensor = norm(x)
        return out if activation is None else activation(out)
    slope: Tensor | None = activation.weight if isinstance(activation, nn.PReLU) else None
    if isinstance(activation, nn.ReLU):
        slope = x.new_zeros(x.shape[1])
    result = normalise(x, norm.weight, norm.bias, slope, eps=norm.eps, over_ranks=over_ranks)
    _require_two(result.values)
    _track(norm, result.mean, result.variance * (result.values / (result.values - 1)))
    return result.out


def _in_training(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d | _GlobalBatchNorm]:
    return norm.training and isinstance(norm, nn.BatchNorm2d | _GlobalBatchNorm)


def _require_two(count: int) -> None:
    if count < 2:
        raise UserError(
            "the global batch holds one value per channel", "batch normalisation", "train on 2 images or more"
        )


@torch.no_grad()
def _track(norm: nn.BatchNorm2d | _GlobalBatchNorm, mean: Tensor, unbiased_variance: Tensor) -> None:
    """Move the running statistics as `torch.nn.BatchNorm` does, ``momentum=None`` included."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(unbiased_variance.to(norm.running_var.dtype), share)


NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, _GlobalBatchNorm)
