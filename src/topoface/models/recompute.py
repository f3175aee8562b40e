"""Activation checkpointing: a block keeps its input alone and computes the rest again in backward."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from topoface.models.batchnorm import NORMALISATIONS


def recomputed(layers: Callable[[Tensor], Tensor], block: nn.Module, x: Tensor) -> Tensor:
    """``layers(x)``, whose inner activations are not kept for backward; the same bits, and the same gradients.

    Args:
        layers: what the block does; it must draw no random numbers.
        block: holds the normalisations, whose running statistics move once.
        x: ``[n, C, H, W]``.
    """
    if not (block.training and torch.is_grad_enabled()):
        return layers(x)
    out: Tensor = checkpoint(
        layers,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _statistics_at_rest(block)),
    )
    return out


@contextmanager
def _statistics_at_rest(block: nn.Module) -> Iterator[None]:
    """Running statistics saw this batch in the first pass: let copies of them move in the second."""
    own = {module: module._buffers for module in block.modules() if isinstance(module, NORMALISATIONS)}
    for norm, buffers in own.items():
        norm._buffers = {name: None if b is None else b.clone() for name, b in buffers.items()}
    try:
        yield
    finally:
        for norm, buffers in own.items():
            norm._buffers = buffers
