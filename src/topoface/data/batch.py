"""What travels from the loader to the training step."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from topoface.functional.draws import SampleDraws


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One process's share of one step; never changed after the loader made it.

    Attributes:
        images: uint8 RGB ``[n, 3, 112, 112]`` (channels_last in memory), flipped where the draw said so.
        labels: int64 ``[n]``, in ``0 .. identities - 1``.
        indices: int64 ``[n]``, position of each sample in its source.
        draws: the random numbers of these samples in this step.
        extras: what the methods' ``prepare`` made in the loader, by the name they gave it.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    draws: SampleDraws
    extras: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``; the images stay uint8."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            indices=self.indices.to(device, non_blocking=True),
            extras={name: value.to(device, non_blocking=True) for name, value in self.extras.items()},
        )
