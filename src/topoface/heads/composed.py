"""A softmax over class centers that come from code vectors: frozen, or moved by a code book (docs/methods/gif.md).

The published regression only pulls an embedding to its code vector; a softmax also pushes it from the others. Composed centers
norm(h_y + sum_j U_j[c_yj]) let the frozen table adapt in a shared way: the rows U are all that is trained, and their
number does not depend on how many identities there are. Ours.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from topoface.codes.names import Named
from topoface.data.batch import Batch
from topoface.errors import UserError, require
from topoface.functional import margin as margins
from topoface.functional.collectives import logsumexp_over_ranks
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.functional.identity_codes import (
    ABSENT,
    composed_centers,
    first_columns,
    log_probability_and_entropy,
    nearest_others,
    other_identities,
)
from topoface.functional.softmax import negative_log_likelihood
from topoface.heads.head import MARGIN_STATISTICS, ClassStatistics, StatisticsRequest
from topoface.heads.label_codes import Identities, LabelCodes

MOST_AT_ONCE = 100_000  # identities: above, they no longer fit beside a batch


class Composed(nn.Module):
    """CosFace softmax over the identities of the batch and others drawn at random.

    The statistics are those of this softmax. With all identities and frozen centers it is the dense softmax over the code vectors.

    Args:
        embedding_dim: D.
        num_classes: C, of the training source.
        seed: of the identities drawn where a batch comes without any, as in a diagnosis.
        table: folder of the codes, from ``topoface codes build``.
        centers: ``composed``: code vectors plus trained rows that start at 0; ``frozen``: the code vectors, nothing is trained;
            ``books``: trained rows alone, which start as the table's code books.
        negatives: identities drawn in each step, alike for the whole batch; null: all, up to 100,000.
        neighbours: nearest code vectors of each row's identity that join its negatives, but for near-duplicates.
        scale: s: about 16 for 10^3 identities, 64 for 10^6.
        margin: subtracted from the own cosine.

    Raises:
        UserError: no such table, it lacks what the centers need, or a setting out of its range.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ours": {},
        "frozen_all": {"centers": "frozen", "negatives": None},
        "frozen_sampled": {"centers": "frozen"},
        "frozen_local": {"centers": "frozen", "neighbours": 32},
    }

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        seed: int = 0,
        table: str = "codes",
        centers: Literal["composed", "frozen", "books"] = "composed",
        negatives: int | None = 4096,
        neighbours: int = 0,
        scale: float = 32.0,
        margin: float = 0.2,
    ) -> None:
        super().__init__()
        require(0 < scale < torch.inf, "scale", scale, "give a positive scale")
        require(0 <= margin < 2, "margin", margin, "give a number in [0, 2)")
        require(
            negatives is None or negatives >= 0, "negatives", negatives, "give 0 or more, or null for all"
        )
        require(neighbours >= 0, "neighbours", neighbours, "give 0 or more")
        self.num_classes, self.scale, self.m, self.seed = num_classes, scale, margin, seed
        self.everyone = negatives is None or negatives >= num_classes
        if self.everyone and num_classes > MOST_AT_ONCE:
            raise UserError(
                f"asks for all of {num_classes:,} identities in each step",
                "negatives",
                "give fewer, usually 4096",
            )
        self.negatives, self.neighbours = negatives or 0, 0 if self.everyone else neighbours
        self.codes = LabelCodes(
            table, num_classes, embedding_dim, tokens=centers != "frozen", vectors=centers != "books"
        )
        alphabets, books = self.codes.table.alphabets, self.codes.table.books
        self.shape = (sum(alphabets), embedding_dim)
        self.rows: nn.Parameter | None = None
        if centers == "composed":
            start = torch.zeros(self.shape)
        elif centers == "books":
            if books is None or books.shape != self.shape:
                found = (
                    "has no code books" if books is None else f"has code books of {books.shape[1]} numbers"
                )
                raise UserError(
                    f"is {table!r}, which {found}", "table", f"build it by rq, with {embedding_dim}"
                )
            start = torch.from_numpy(books.copy())
        if centers != "frozen":
            # flat, since no weight decay is wanted and the optimizer decays what has two dimensions or more
            self.rows = nn.Parameter(start.flatten())
        self.first: Tensor
        self.register_buffer("first", first_columns(alphabets), persistent=False)
        self._all: Identities | None = None
        self._nearest: Tensor | None = None

    @property
    def margin_room(self) -> float:
        """Down to 0."""
        return self.m

    # --- what is read in the loader ---------------------------------------------------------------------

    def connect(self, source: Named) -> None:
        """Find the codes of the identities of the training source, and the neighbours of each. UserError if one has none."""
        self.codes.connect(source)
        if self.everyone:
            self._all = self.codes.of(torch.arange(self.num_classes))
        if self.neighbours:
            table, rows = self.codes.table, self.codes.rows(torch.arange(self.num_classes))
            tokens = torch.from_numpy(table.codes[rows, 0].astype(np.int64))
            self._nearest = nearest_others(
                lambda labels: torch.from_numpy(table.unit_vectors(rows[labels.numpy()])),
                tokens,
                self.neighbours,
            ).int()

    def prepare(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the softmax needs of the table; runs in the loader."""
        return self._read(batch.labels, batch.draws.seed, batch.draws.step)

    def _read(self, labels: Tensor, seed: int, step: int) -> dict[str, Tensor]:
        """The batch's identities, those drawn (the same on all ranks), and neighbours."""
        found = self.codes.of(labels).named("code")
        if not self.everyone:
            stream = generator(seed, "code_negatives", step)
            drawn = stream.choice(self.num_classes, self.negatives, replace=False)
            found |= self.codes.of(torch.from_numpy(drawn)).named("other")
        if self._nearest is not None:
            found |= self.codes.of(self._nearest[labels.cpu()].long()).named("near")
        return found

    # --- the softmax ------------------------------------------------------------------------------------

    def class_centers(self, identities: Identities) -> Tensor:
        """Unit centers ``[..., D]`` of identities ``[...]``."""
        flat = identities.flat()
        rows = None if self.rows is None else self.rows.view(self.shape)
        centers = composed_centers(flat.vectors, flat.tokens, rows, self.first)
        return centers.view(*identities.labels.shape, -1)

    def _other_logits(self, rows: Tensor, labels: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, m]`` of unit rows to identities other than their own, each counted once."""
        if self._all is not None:
            self._all = shared = self._all.to(rows)
        else:
            batch = Identities.of(extras, "code").to(rows).gathered()
            shared = batch.joined(Identities.of(extras, "other").to(rows))
        logits = self.scale * linear(rows, self.class_centers(shared).to(rows.dtype))
        rest = other_identities(logits, shared.labels, labels)
        if self._nearest is None:
            return rest
        near = Identities.of(extras, "near").to(rows)
        centers = self.class_centers(near).to(rows.dtype)
        logits = self.scale * torch.matmul(centers, rows[:, :, None])[..., 0]
        counted = ~torch.isin(near.labels, shared.labels) & (near.labels >= 0)
        return torch.cat([rest, logits.where(counted, ABSENT)], 1)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        request: StatisticsRequest = MARGIN_STATISTICS,
        extras: Mapping[str, Tensor] | None = None,
    ) -> ClassStatistics:
        """See :class:`topoface.heads.head.Head`; without ``extras`` the table is read here."""
        extras = extras or self._read(labels, self.seed, 0)
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
            rows = unit_rows(wide)
            own = Identities.of(extras, "code").to(rows)
            cosine = (rows * self.class_centers(own)).sum(1)
            margin = self.m if shift is None else self.m + shift
            target = self.scale * margins.cosface(cosine, margin)
            rest = self._other_logits(rows, labels, extras)
            if extra is not None and extra.dim() == 0:
                extra = logsumexp_over_ranks(extra)
            log_mass = rest.logsumexp(1)
            loss = negative_log_likelihood(target, log_mass, extra)
            with torch.set_grad_enabled(request.differentiable and torch.is_grad_enabled()):
                log_probability, entropy = log_probability_and_entropy(
                    target if request.margin else self.scale * cosine, rest, request.log_epsilon
                )
        share = None if extra is None else torch.sigmoid(extra - torch.logaddexp(target, log_mass)).detach()
        return ClassStatistics(
            loss=loss,
            target_log_probability=log_probability,
            entropy=entropy,
            target_cosine=cosine.detach(),
            extra_probability=share,
        )

    def extra_repr(self) -> str:
        """What print(head) shows."""
        drawn = "all" if self.everyone else self.negatives
        return (
            f"classes={self.num_classes}, negatives={drawn}, neighbours={self.neighbours}, scale={self.scale}"
        )
