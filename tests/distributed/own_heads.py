"""Heads as somebody else may write them: one that knows nothing of processes, and ours with a parameter added."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from topoface.functional.collectives import logsumexp_over_ranks
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.functional.softmax import negative_log_likelihood, rest_of, row_entropy
from topoface.heads import ArcFace, ClassStatistics, StatisticsRequest
from topoface.heads.head import MARGIN_STATISTICS


class Everywhere(nn.Module):
    """Additive cosine margin, with all class centers on each process."""

    has_class_centers, margin_room = True, 0.2

    def __init__(self, embedding_dim: int, num_classes: int, *, seed: int = 0, scale: float = 16.0) -> None:
        super().__init__()
        self.num_classes, self.scale = num_classes, scale
        start = generator(seed, "everywhere").normal(0.0, 0.1, (num_classes, embedding_dim))
        self.weight = nn.Parameter(torch.from_numpy(start).float())

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        request: StatisticsRequest = MARGIN_STATISTICS,
        extras: Mapping[str, Tensor] | None = None,
    ) -> ClassStatistics:
        logits = self.scale * unit_rows(embeddings) @ unit_rows(self.weight).T
        own = logits.gather(1, labels[:, None])[:, 0]
        target = own - self.scale * (0.2 if shift is None else 0.2 + shift)
        rest = rest_of(logits, labels)
        if extra is not None and extra.dim() == 0:
            extra = logsumexp_over_ranks(extra)
        with torch.no_grad():
            log_probability = -negative_log_likelihood(target, rest.logsumexp(1))
            entropy = row_entropy(logits, rest, rest.logsumexp(1), target)
        return ClassStatistics(
            loss=negative_log_likelihood(target, rest.logsumexp(1), extra),
            target_log_probability=log_probability,
            entropy=entropy,
            target_cosine=own.detach() / self.scale,
            class_centers=self.weight,
        )


class Moved(ArcFace):
    """ArcFace about a trained origin: its class centers are cut over the processes, the origin is not."""

    def __init__(self, embedding_dim: int, num_classes: int, *, seed: int = 0, scale: float = 16.0) -> None:
        super().__init__(embedding_dim, num_classes, seed=seed, scale=scale, margin=0.2)
        self.origin = nn.Parameter(torch.full((embedding_dim,), 0.1))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        request: StatisticsRequest = MARGIN_STATISTICS,
        extras: Mapping[str, Tensor] | None = None,
    ) -> ClassStatistics:
        return super().forward(embeddings - self.origin, labels, shift, extra, request, extras)
