"""GIF (arXiv 2505.03012): terms that bring frozen code vectors into the training, beside whatever head there is.

With the head ``IdentityCode`` and preset ``paper`` this is the published method as we read it; beside a dense head it is one of the baselines.
No code was released and the paper's text was not to be had: docs/methods/gif.md says what is reconstruction.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from topoface.codes.names import Named
from topoface.data.batch import Batch
from topoface.functional.directions import unit_rows
from topoface.functional.identity_codes import regression_loss
from topoface.heads.composed import Composed
from topoface.heads.label_codes import LabelCodes
from topoface.methods.gif_settings import PRESETS, Regression, VectorSoftmax
from topoface.methods.method import Method, RunFacts, StepState

PREFIX = "gif_"  # of the method's entries among a batch's extras: a head may have some of the same name


class GIF(Method):
    """Regression to the code vector of the identity, and a softmax over code vectors; each has its switch.

    The log has the cosine to the code vector, and the length of each term's gradient at the embeddings beside that of everything else: a
    term far below the rest has no say. The paper's weight of 1 is far below token losses at scale 64.

    Args:
        facts: of the run.
        table: folder of the code vectors, from ``topoface codes build``.
        regression: to the code vector; off with a weight of 0.
        softmax: over code vectors; off with a weight of 0, as published.

    Raises:
        UserError: no such table, it does not fit the run, or a setting out of its range.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    def __init__(
        self,
        facts: RunFacts,
        *,
        table: str = "codes",
        regression: Regression = Regression(),
        softmax: VectorSoftmax = VectorSoftmax(),
    ) -> None:
        super().__init__(facts)
        self.regression, self.softmax_weight = regression, softmax.weight
        classes, dim = facts.num_classes, facts.embedding_dim
        self.codes = LabelCodes(table, classes, dim, tokens=False, vectors=True)
        self.softmax: Composed | None = None
        if softmax.weight > 0:
            settings = {name: value for name, value in asdict(softmax).items() if name != "weight"}
            self.softmax = Composed(dim, classes, table=table, **settings)
        self._cosine: Tensor | None = None
        self._seen: dict[str, Tensor] = {}  # gradients at the embeddings, by term
        self._lengths: dict[str, Tensor] = {}

    def connect(self, source: Named) -> None:
        """Find the codes of the identities of the training source. UserError if one has none."""
        self.codes.connect(source)
        if self.softmax is not None:
            self.softmax.connect(source)

    def prepare(self, batch: Batch) -> Mapping[str, Tensor]:
        """Code vectors of the batch's identities, and what the softmax needs; runs in the loader."""
        found = dict(self.softmax.prepare(batch)) if self.softmax is not None else {}
        found |= self.codes.of(batch.labels).named("target")
        return {f"{PREFIX}{name}": value for name, value in found.items()}

    def penalties(self, state: StepState) -> Mapping[str, Tensor]:
        """The terms that are on, outside autocast in float32."""
        embeddings = state.embeddings
        terms: dict[str, Tensor] = {}
        self._seen = {}
        with torch.autocast(embeddings.device.type, enabled=False):
            extras = {
                name.removeprefix(PREFIX): value
                for name, value in state.batch.extras.items()
                if name.startswith(PREFIX)
            }
            vectors = extras["target_vectors"].to(embeddings)
            if self.regression.weight > 0:
                cosine = (unit_rows(self._branch(embeddings, "regression")) * vectors).sum(1)
                loss = regression_loss(cosine, self.regression.form).mean()
                terms["regression"] = self.regression.weight * loss
            else:
                cosine = (unit_rows(embeddings.detach()) * vectors).sum(1)
            self._cosine = cosine.detach().mean()
            if self.softmax is not None:
                branch = self._branch(embeddings, "softmax")
                loss = self.softmax(branch, state.batch.labels, extras=extras).loss.mean()
                terms["softmax"] = self.softmax_weight * loss
        if terms and embeddings.requires_grad:
            embeddings.register_hook(self._measure)  # type: ignore[no-untyped-call]
        return terms

    def _branch(self, embeddings: Tensor, term: str) -> Tensor:
        """The embeddings for one term, so that its gradient is seen by itself."""
        branch = embeddings.view_as(embeddings)
        if branch.requires_grad:
            branch.register_hook(lambda gradient: self._seen.update({term: gradient}))  # type: ignore[no-untyped-call]
        return branch

    def _measure(self, gradient: Tensor) -> None:
        """Once the whole gradient at the embeddings is there: the length of each term's, and of everything else."""
        if not self._seen:
            return  # TopoFR looks at the gradient of some terms first, without these
        rest = gradient - torch.stack(list(self._seen.values())).sum(0)
        parts = {**self._seen, "rest": rest}
        self._lengths = {f"gradient_{name}": part.norm() for name, part in parts.items()}
        self._seen = {}

    def log_values(self) -> Mapping[str, Tensor]:
        """Mean cosine to the code vectors, and the lengths of the gradients, of the last micro-batch."""
        return {} if self._cosine is None else {"code_cosine": self._cosine, **self._lengths}
