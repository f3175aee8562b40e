"""SGD of class centers outside torch's optimizer: block by block in backward, or of a few rows, the others caught up when their turn comes.

A step without gradient is linear in (center, momentum) with the same 2 x 2 matrix for all rows, so what a row has missed is one product of such
matrices, whatever its age: rows that are not drawn cost nothing, and nothing is lost.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from topoface.functional import row_loops
from topoface.functional.compiled import compiled, in_memory


@dataclass(frozen=True, kw_only=True)
class SGDStep:
    """What one step of torch's SGD does to a row: v = mu v + g + decay w; w -= lr v, or Nesterov's lr (g + decay w + mu v).

    Attributes:
        lr: learning rate.
        momentum: mu.
        decay: weight decay.
        nesterov: which of the two.
    """

    lr: float
    momentum: float
    decay: float
    nesterov: bool

    def without_gradient(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """The matrix ``[2, 2]`` of the step for a row without a gradient, on (w, v)."""
        lr, mu, decay = self.lr, self.momentum, self.decay
        if self.nesterov:
            return np.array([[1 - lr * decay * (1 + mu), -lr * mu * mu], [decay, mu]])
        return np.array([[1 - lr * decay, -lr * mu], [decay, mu]])

    def settings(self, dtype: torch.dtype) -> tuple[np.floating, ...]:
        """For the loops, in their precision."""
        kind = np.float32 if dtype == torch.float32 else np.float64
        return tuple(kind(x) for x in (self.lr, self.momentum, self.decay, self.nesterov))

    def apply(self, centers: Tensor, speeds: Tensor, gradient: Tensor) -> None:
        """Move tensors of one shape in place."""
        g = gradient.add(centers, alpha=self.decay)
        speeds.mul_(self.momentum).add_(g)
        centers.sub_(g.add_(speeds, alpha=self.momentum) if self.nesterov else speeds, alpha=self.lr)


def take_out_along(change: Tensor, centers: Tensor, inverse: Tensor) -> None:
    """Make the gradient of unit centers, over their lengths, that of the centers, in place.

    Args:
        change: ``[k, D]``.
        centers: ``[k, D]``, not normalised.
        inverse: ``[k]``, of their lengths.
    """
    loop = compiled(row_loops.take_out_along, fused=True)
    if loop and in_memory(change, centers, inverse):
        loop(change.numpy(), centers.numpy(), inverse.numpy())
        return
    along = torch.linalg.vecdot(change, centers) * inverse * inverse
    change.addcmul_(along[:, None], centers, value=-1)


def move_block(centers: Tensor, speeds: Tensor, change: Tensor, inverse: Tensor, step: SGDStep) -> None:
    """:func:`take_out_along`, then a step of SGD of these centers, in one pass.

    Args:
        centers: ``[k, D]``, moved in place.
        speeds: their momentum, moved in place.
        change: ``[k, D]``, used up.
        inverse: ``[k]``.
        step: of SGD.
    """
    loop = compiled(row_loops.move_block, fused=True)
    if loop and in_memory(centers, speeds, change, inverse):
        arrays = (tensor.numpy() for tensor in (centers, speeds, change, inverse))
        loop(*arrays, *step.settings(centers.dtype))
        return
    take_out_along(change, centers, inverse)
    step.apply(centers, speeds, change)


def catch_up(
    centers: Tensor, speeds: Tensor, moved: Tensor, chosen: Tensor, factors: Tensor, now: int
) -> None:
    """Bring chosen rows to step ``now``, in place.

    Args:
        centers: ``[C, D]``.
        speeds: their momentum.
        moved: int32 ``[C]``: the step that each row is at; becomes ``now``.
        chosen: int64 ``[m]``, each once.
        factors: ``[now + 1, 4]``: the product of the steps from each age on, row by row.
        now: steps made.
    """
    loop = compiled(row_loops.catch_up_rows, fused=True)
    if loop and in_memory(centers, speeds, moved, chosen):
        arrays = (t.detach().numpy() for t in (centers, speeds, moved, chosen, factors.to(centers.dtype)))
        loop(*arrays, now)
        return
    w, v = centers[chosen], speeds[chosen]
    a, b, c, e = factors.to(w)[moved[chosen].long()].unsqueeze(-1).unbind(1)
    centers[chosen], speeds[chosen] = a * w + b * v, c * w + e * v
    moved[chosen] = now


def move_rows(centers: Tensor, speeds: Tensor, chosen: Tensor, gradient: Tensor, step: SGDStep) -> None:
    """A step of SGD of the chosen rows, in place.

    Args:
        centers: ``[C, D]``.
        speeds: their momentum.
        chosen: int64 ``[m]``, each once.
        gradient: ``[m, D]``.
        step: of SGD.
    """
    loop = compiled(row_loops.move_rows, fused=True)
    if loop and in_memory(centers, speeds, chosen, gradient):
        arrays = (t.detach().numpy() for t in (centers, speeds, chosen, gradient))
        loop(*arrays, *step.settings(centers.dtype))
        return
    w, v = centers[chosen], speeds[chosen]
    step.apply(w, v, gradient)
    centers[chosen], speeds[chosen] = w, v
