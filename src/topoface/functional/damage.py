"""The structure damage score of TopoFR (arXiv 2410.10587): how much the loss of each sample weighs."""

import torch
from torch import Tensor

FOCALS = ("on", "off", "gate")


def damage_score(
    hardness: Tensor | None,
    target_log_probability: Tensor,
    *,
    temperature: float = 1.0,
    focal: str = "on",
    cap: float | None = None,
) -> Tensor:
    """The score omega = (1 + h)^lambda (1 - p): large where the sample is hard and its class is missed.

    Differentiable in both arguments; callers detach what shall not carry gradient.

    Args:
        hardness: ``[n]`` in [0, 1], from `fit_mixture`; None leaves its factor out.
        target_log_probability: ``[n]``, log p of the label, <= 0. The log, because 1 - p is 0 in float32 where
            ``-expm1(log p)`` still has all its digits.
        temperature: lambda.
        focal: ``on`` the factor 1 - p; ``off`` none; ``gate`` the released code, which stores p as an integer: 0
            where p rounds to 1 in float32, else 1.
        cap: the largest score allowed; bounds what a mislabelled image can do.

    Returns:
        ``[n]``, not negative, at most 2^lambda.

    Raises:
        ValueError: for an unknown name.
    """
    if focal not in FOCALS:
        raise ValueError(f"unknown name {focal!r}; allowed are {', '.join(FOCALS)}")
    log_p = target_log_probability
    if focal == "on":
        score = -torch.expm1(log_p.clamp(max=0))  # rounding may leave log p at +1e-8
    elif focal == "gate":
        score = (log_p.detach().float().exp() < 1).to(log_p.dtype)
    else:
        score = torch.ones_like(log_p)
    if hardness is not None:
        score = (1 + hardness) ** temperature * score
    if cap is not None:
        score = score.clamp(max=cap)
    return score
