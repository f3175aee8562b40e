"""Partial FC (arXiv 2010.05222, 2203.15565): a softmax over the classes of the batch and a random share of the others."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from topoface.data.batch import Batch
from topoface.errors import UserError, require
from topoface.functional.collectives import world_size
from topoface.functional.draws import generator
from topoface.heads.head import MARGIN_STATISTICS, ClassStatistics, StatisticsRequest
from topoface.heads.softmax import CosFace


class PartialFC(nn.Module):
    """CosFace over ``rate`` of all classes, drawn anew in each step; those of the batch are always among them.

    The statistics are those of the classes drawn; where a batch comes without any, as in a diagnosis, those of all.

    Args:
        embedding_dim: D.
        num_classes: C, read from the training source.
        seed: of the initial class centers.
        rate: share of the classes that take part in a step.
        scale: s, what cosines are multiplied with.
        margin: subtracted from the own cosine.

    Raises:
        UserError: several processes, or a setting out of its range.
    """

    has_class_centers = True

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        seed: int = 0,
        rate: float = 0.1,
        scale: float = 64.0,
        margin: float = 0.4,
    ) -> None:
        super().__init__()
        if world_size() > 1:
            raise UserError(
                "PartialFC draws classes for one process only",
                "head.class_path",
                "train with one, or take CosFace",
            )
        require(0 < rate <= 1, "rate", rate, "give a share in (0, 1], usually 0.1")
        self.num_classes, self.rate = num_classes, rate
        self.classes = CosFace(embedding_dim, num_classes, seed=seed, scale=scale, margin=margin)

    @property
    def scale(self) -> float:
        """Of the softmax."""
        return self.classes.scale

    @property
    def margin_room(self) -> float | None:
        """As CosFace."""
        return self.classes.margin_room

    def prepare(self, batch: Batch) -> Mapping[str, Tensor]:
        """The classes that take part, int64 ``[m]`` ascending; runs in the loader."""
        keys = generator(batch.draws.seed, "partial_fc", batch.draws.step).random(self.num_classes)
        own = np.unique(batch.labels.numpy())
        keys[own] = -1.0
        count = max(len(own), round(self.rate * self.num_classes))
        chosen = np.sort(np.argpartition(keys, count - 1)[:count])
        return {"chosen_classes": torch.from_numpy(chosen)}

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        request: StatisticsRequest = MARGIN_STATISTICS,
        extras: Mapping[str, Tensor] | None = None,
    ) -> ClassStatistics:
        """See :class:`topoface.heads.head.Head`."""
        weight = self.classes.weight
        if not extras:
            stats: ClassStatistics = self.classes(embeddings, labels, shift, extra, request)
            return stats
        chosen = extras["chosen_classes"]
        places = torch.searchsorted(chosen, labels)
        stats = functional_call(
            self.classes, {"weight": weight[chosen]}, (embeddings, places, shift, extra, request)
        )
        return replace(stats, class_centers=weight)

    def extra_repr(self) -> str:
        """What print(head) shows."""
        return f"rate={self.rate}"
