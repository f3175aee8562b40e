"""Margins that read the length of an embedding as the quality of its image: MagFace and AdaFace."""

from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from topoface.errors import UserError, require
from topoface.functional import margin as margins
from topoface.functional.collectives import gather_rows
from topoface.heads.softmax import Softmax


class MagFace(Softmax):
    """Angular margin that grows with the length of the embedding, and a pull towards great length (arXiv 2103.06627).

    m(a) rises linearly from ``least_margin`` at ``least_norm`` to ``greatest_margin`` at ``greatest_norm``; lengths are clamped to
    that range first, so that outside it they get no gradient. The regulariser is ``strength`` times the mean of
    g(a) = 1 / a + a / greatest_norm^2 (equation 5 there), which no sample weight touches.

    Args:
        embedding_dim: D.
        num_classes: C.
        least_norm: l_a.
        greatest_norm: u_a.
        least_margin: l_m in radians.
        greatest_margin: u_m in radians.
        strength: lambda_g.
        easy_margin: no margin where the cosine is not positive, as the released code has it by default.
        continuation: past theta = pi - m, see :func:`topoface.functional.margin.arcface`.
        softmax: arguments of :class:`Softmax`.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        least_norm: float = 10.0,
        greatest_norm: float = 110.0,
        least_margin: float = 0.45,
        greatest_margin: float = 0.8,
        strength: float = 35.0,
        easy_margin: bool = False,
        continuation: margins.Continuation = "linear",
        **softmax: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, **softmax)
        if not 0 < least_norm < greatest_norm < torch.inf:
            raise UserError(
                f"is {least_norm}, not in (0, {greatest_norm})",
                "head.init_args.least_norm",
                "give least < greatest",
            )
        if not 0 <= least_margin <= greatest_margin < torch.pi:
            raise UserError(
                f"is {least_margin}, with greatest {greatest_margin}",
                "head.init_args.least_margin",
                "give radians, 0 <= least <= greatest < pi",
            )
        require(0 <= strength < torch.inf, "head.init_args.strength", strength, "give 0 or more, usually 35")
        self.least_norm, self.greatest_norm = least_norm, greatest_norm
        self.least_margin, self.greatest_margin = least_margin, greatest_margin
        self.strength, self.easy_margin, self.continuation = strength, easy_margin, continuation

    @property
    def margin_room(self) -> float | None:
        """Within [0, pi / 2)."""
        return min(self.least_margin, torch.pi / 2 - self.greatest_margin)

    def target_logit(
        self, cosine: Tensor, shift: Tensor | None, embeddings: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """cos(theta + m(a) + shift), and the regulariser."""
        a = vector_norm(embeddings, dim=1).clamp(self.least_norm, self.greatest_norm)
        slope = (self.greatest_margin - self.least_margin) / (self.greatest_norm - self.least_norm)
        m = self.least_margin + slope * (a - self.least_norm)
        target = margins.arcface(cosine, m if shift is None else m + shift, self.continuation)
        if self.easy_margin:
            target = torch.where(cosine > 0, target, cosine)
        return target, self.strength * (1 / a + a / self.greatest_norm**2).mean()


class AdaFace(Softmax):
    """Margin that presses on hard images of good quality and spares those of poor quality (arXiv 2204.00964).

    With z the length of an embedding, standardised over running batch statistics and clipped to [-1, 1], the target logit is
    cos(theta - m z) - (m z + m) (equation 12 there). The length steers the margin and gets no gradient.

    Args:
        embedding_dim: D.
        num_classes: C.
        margin: m.
        concentration: h: z reaches its bounds at 1 / h standard deviations.
        memory: how much of the running mean and deviation a batch leaves.
        continuation: past theta = pi - m, see :func:`topoface.functional.margin.arcface`.
        softmax: arguments of :class:`Softmax`.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.4,
        concentration: float = 0.333,
        memory: float = 0.99,
        continuation: margins.Continuation = "linear",
        **softmax: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, **softmax)
        for name, value, most in (("margin", margin, torch.pi), ("memory", memory, 1.0)):
            if not 0 <= value < most:
                raise UserError(f"is {value}", f"head.init_args.{name}", f"give a number in [0, {most:.3g})")
        require(
            0 < concentration < torch.inf,
            "head.init_args.concentration",
            concentration,
            "give a positive number, usually 0.333",
        )
        self.m, self.concentration, self.memory, self.continuation = (
            margin,
            concentration,
            memory,
            continuation,
        )
        # running mean and deviation of the lengths; NaN: none yet
        self.norm_statistics: Tensor
        self.register_buffer("norm_statistics", torch.full((2,), torch.nan, dtype=torch.float64))

    @property
    def margin_room(self) -> float | None:
        """Up to pi / 2; the angle may be negative here."""
        return torch.pi / 2 - self.m

    def target_logit(
        self, cosine: Tensor, shift: Tensor | None, embeddings: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """cos(theta - m z + shift) - (m z + m)."""
        with torch.no_grad():
            lengths = vector_norm(embeddings.detach(), dim=1).clamp(1e-3, 100)
            if self.training:
                self._remember(gather_rows(lengths))
            mean, deviation = self.norm_statistics.to(lengths.dtype)
            z = (self.concentration * (lengths - mean) / (deviation + 1e-3)).nan_to_num(0.0).clamp(-1, 1)
        angular = -self.m * z if shift is None else shift - self.m * z
        return self._turned(cosine, angular) - (self.m * z + self.m), None

    def _turned(self, cosine: Tensor, angle: Tensor) -> Tensor:
        """cos(theta + angle), no further than 0 or pi."""
        harder = margins.arcface(cosine, angle.clamp(min=0), self.continuation)
        # a negative angle turns towards the center, and not past it
        turned = cosine * angle.cos() - margins.sine_of(cosine) * angle.sin()
        easier = torch.where(cosine < angle.cos(), turned, 1.0)
        return torch.where(angle < 0, easier, harder)

    def _remember(self, lengths: Tensor) -> None:
        """Move the running statistics towards those of the global batch."""
        deviation, mean = torch.std_mean(lengths.double())
        now = torch.stack([mean, deviation.nan_to_num(0.0)])
        running = self.memory * self.norm_statistics + (1 - self.memory) * now
        self.norm_statistics.copy_(torch.where(self.norm_statistics.isnan(), now, running))
