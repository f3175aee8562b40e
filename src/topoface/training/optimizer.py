"""The optimizer and its parameter groups."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from topoface.functional.placement import is_cut
from topoface.recipe import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig, *, decayed: Iterable[nn.Module], undecayed: nn.Module
) -> Optimizer:
    """SGD or AdamW over modules; the learning rate is set anew at each step.

    Args:
        config: of the recipe.
        decayed: backbone and head: weight decay on kernels and matrices (two or more dimensions), none on
            biases, norms and PReLU slopes, unless ``decay_all``.
        undecayed: the methods: no weight decay at all.
    """
    groups: list[dict[str, Any]] = []
    for module in decayed:
        parameters = [p for p in module.parameters() if p.requires_grad]
        # torch's fused SGD does not know tables that are cut over the ranks
        fused = not any(is_cut(p) for p in parameters)
        with_decay = [p for p in parameters if config.decay_all or p.ndim >= 2]
        without = [p for p in parameters if not (config.decay_all or p.ndim >= 2)]
        groups.append({"params": with_decay, "weight_decay": config.weight_decay, "fused": fused})
        groups.append({"params": without, "weight_decay": 0.0, "fused": fused})
    trained = [p for p in undecayed.parameters() if p.requires_grad]
    groups.append({"params": trained, "weight_decay": 0.0, "fused": True})
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """Give every group the learning rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = value
