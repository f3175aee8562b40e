"""Angular margins: from the cosine of a sample to its own class center to the logit before scale.

All of them take a cosine of any shape and a margin that is a number or broadcasts against it, keep the
dtype, are exact at cos = +-1, monotone in the angle, and never easier than no margin (for margins >= 0).
"""

from typing import Literal

import torch
from torch import Tensor

Continuation = Literal["linear", "insightface", "wrap"]


def sine_of(cosine: Tensor) -> Tensor:
    """Sine of the angle in [0, pi] whose cosine is given, with finite gradient everywhere.

    The derivative -cos/sin has no limit at cos = +-1. There the angle's direction is undefined, so the
    derivative is set to 0 at exactly these points (and beyond, where rounding may lead) and nowhere else.
    """
    square = (1 - cosine) * (1 + cosine)
    inside = square > 0
    return torch.where(inside, torch.where(inside, square, 1.0).sqrt(), 0.0)


def arcface(cosine: Tensor, margin: float | Tensor, continuation: Continuation = "linear") -> Tensor:
    """Additive angular margin, cos(theta + m) (ArcFace, arXiv 1801.07698, equation 3).

    Args:
        cosine: cosine to the own class center, any shape.
        margin: m in radians, in [0, pi]; a number or broadcastable.
        continuation: what follows past theta = pi - m, where cos(theta + m) would rise again:
            ``linear``: cos(theta) - (1 - cos m), continuous and monotone;
            ``insightface``: cos(theta) - m sin m, as released, which jumps down by 0.117 at m = 0.5;
            ``wrap``: cos(theta + m) itself.

    Returns:
        The target logit before scale, like ``cosine``.
    """
    if not cosine.is_floating_point():
        cosine = cosine.to(torch.get_default_dtype())
    m = _like(cosine, margin)
    shifted = cosine * m.cos() - sine_of(cosine) * m.sin()
    if continuation == "wrap":
        return shifted
    if continuation == "linear":
        beyond = cosine - (1 - m.cos())
    elif continuation == "insightface":
        beyond = cosine - m * m.sin()
    else:
        raise ValueError(f"continuation is {continuation!r}; use linear, insightface or wrap")
    return torch.where(cosine > -m.cos(), shifted, beyond)


def cosface(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """Additive cosine margin, cos(theta) - m (CosFace, arXiv 1801.09414, equation 4)."""
    return cosine - margin


def combined(
    cosine: Tensor,
    *,
    multiplier: float = 1.0,
    angular: float | Tensor = 0.0,
    additive: float | Tensor = 0.0,
    continuation: Continuation = "linear",
) -> Tensor:
    """Combined margin, cos(m1 theta + m2) - m3 (ArcFace, arXiv 1801.07698, equation 4).

    Args:
        cosine: cosine to the own class center, any shape.
        multiplier: m1 >= 1.
        angular: m2 in radians.
        additive: m3.
        continuation: as in :func:`arcface`, past m1 theta + m2 = pi.
    """
    if multiplier == 1.0:
        return arcface(cosine, angular, continuation) - additive
    # atan2 keeps the angle and its gradient right where acos loses half the digits
    angle = torch.atan2(sine_of(cosine), cosine)
    total = multiplier * angle + angular
    wrapped = total.cos()
    if continuation == "wrap":
        return wrapped - additive
    if continuation == "insightface":
        m = _like(cosine, angular)
        beyond = cosine - m * m.sin()
    else:
        # -1 at total = pi, then falling with the cosine of the angle itself
        edge = (torch.pi - _like(cosine, angular)) / multiplier
        beyond = cosine - edge.cos() - 1
    return torch.where(total < torch.pi, wrapped, beyond) - additive


def _like(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """The margin as a tensor; a number is filled in on the device, which waits for nothing, not copied to it."""
    if isinstance(margin, Tensor):
        return margin.to(cosine)
    return torch.full((), margin, dtype=cosine.dtype, device=cosine.device)


def straight_through(margined: Tensor, cosine: Tensor) -> Tensor:
    """The margined value with the gradient of the plain cosine, as arcface_torch's ``no_grad`` margins have."""
    return cosine + (margined - cosine).detach()
