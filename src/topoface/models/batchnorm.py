"""Batch normalisation over the batch of all processes, on any device: torch's own SyncBatchNorm refuses the CPU."""

import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.functional.collectives import sum_over_ranks, world_size


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
        if count.item() < 2:
            raise UserError(
                "the global batch holds one value per channel",
                "batch normalisation",
                "train on 2 images or more",
            )
        centred = rows - mean.view(shape)
        squares = sum_over_ranks(centred.square().sum(others))
        variance = squares / count
        self._track(mean.detach(), squares.detach() / (count - 1))

        gain = (variance + self.eps).rsqrt()
        out = centred * (gain * self.weight if self.affine else gain).view(shape)
        return (out + self.bias.view(shape) if self.affine else out).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Move the running statistics as `torch.nn.BatchNorm` does, ``momentum=None`` included."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), share)
