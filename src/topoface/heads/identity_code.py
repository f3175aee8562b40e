"""The head of GIF (arXiv 2505.03012): an identity is a short code, and the head predicts its tokens.

The paper's text was not to be had and no code was released: docs/methods/gif.md says what is reconstruction.
The product of the token softmaxes is a softmax over all codes, whose class centers are sums of L trained rows. Nothing trained here
grows with the number of identities.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

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
    by_position,
    default_scale,
    first_columns,
    joined_loss,
    joint_log_mass,
    log_probability_and_entropy,
    other_tokens,
    token_slots,
)
from topoface.functional.prefix_tree import NextToken, independent
from topoface.functional.softmax import negative_log_likelihood
from topoface.heads.head import MARGIN_STATISTICS, ClassStatistics, StatisticsRequest
from topoface.heads.label_codes import Identities, LabelCodes


class IdentityCode(nn.Module):
    """One margin softmax for each token of an identity's code.

    Probability and entropy are those of the product of the token softmaxes; the target cosine is the mean over the tokens. Everything
    is float32 (or float64) outside autocast.

    Args:
        embedding_dim: D.
        num_classes: C, of the training source.
        seed: of the initial token centers, normal with deviation 0.01, and projections.
        table: folder of the codes, from ``topoface codes build``.
        projection: of the embedding for each position: ``none`` (ours), ``linear`` or ``mlp`` D -> D -> D (our reading of the paper).
        prefix_conditioned: add trained rows of the tokens before it to what predicts a token.
        margin_kind: ``cosface`` subtracts from the cosine, ``arcface`` adds to the angle.
        margin: one number, or one for each position.
        scale: one number, or one for each position; null: 16 up to 20 tokens, 20 up to 64, 24 up to 256, 32 above.
        token_weight: of each token's loss; ``mean`` is 1/L, which keeps the size of the gradient when L changes.
        per_token: give methods the L-th root of the target probability, which falls with L.

    Raises:
        UserError: no such table, or a setting out of its range.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "projection": "mlp",
            "margin_kind": "arcface",
            "margin": 0.5,
            "scale": 64.0,
            "token_weight": 1.0,
        },
        "ours": {},
    }

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        seed: int = 0,
        table: str = "codes",
        projection: Literal["none", "linear", "mlp"] = "none",
        prefix_conditioned: bool = False,
        margin_kind: Literal["cosface", "arcface"] = "cosface",
        margin: float | list[float] = 0.1,
        scale: float | list[float] | None = None,
        token_weight: float | Literal["mean"] = "mean",
        per_token: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.margin_kind, self.per_token = num_classes, margin_kind, per_token
        self.codes = LabelCodes(table, num_classes, embedding_dim, tokens=True, vectors=False)
        alphabets = self.codes.table.alphabets
        length, total = len(alphabets), sum(alphabets)
        require(
            min(alphabets) > 1,
            "table",
            f"{table!r}, with an alphabet of one token",
            "leave that position out",
        )
        self.token_weight = 1 / length if token_weight == "mean" else token_weight
        require(0 <= self.token_weight < torch.inf, "token_weight", token_weight, "give 0 or more, or mean")
        self.margins = _per_position(margin, length, "margin")
        most = torch.pi if margin_kind == "arcface" else float("inf")
        require(
            all(0 <= m < most for m in self.margins), "margin", margin, f"give numbers in [0, {most:.3g})"
        )
        scales = [default_scale(k) for k in alphabets] if scale is None else scale
        self.scales = _per_position(scales, length, "scale")
        require(all(0 < s < torch.inf for s in self.scales), "scale", scale, "give positive numbers, or null")

        slots, present = token_slots(alphabets)
        self.slots: Tensor
        self.present: Tensor
        self.first: Tensor
        self.scale_of: Tensor
        self.margin_of: Tensor
        for name, values in (
            ("slots", slots),
            ("present", present),
            ("first", first_columns(alphabets)),
            ("scale_of", torch.tensor(self.scales, dtype=torch.float64)),
            ("margin_of", torch.tensor(self.margins, dtype=torch.float64)),
        ):
            self.register_buffer(name, values, persistent=False)
        self._ragged = len(set(alphabets)) > 1

        def normal(purpose: str, deviation: float, *shape: int) -> nn.Parameter:
            drawn = generator(seed, purpose).normal(0.0, deviation, shape)
            return nn.Parameter(torch.from_numpy(drawn).float())

        self.weight = normal("token_centers", 0.01, total, embedding_dim)
        layers = {"none": 0, "linear": 1, "mlp": 2}[projection]
        wide = embedding_dim**-0.5
        self.projections = nn.ParameterList(
            normal(f"projection_{i}", wide, length, embedding_dim, embedding_dim) for i in range(layers)
        )
        last = alphabets[-1]
        self.prefixes = nn.Parameter(torch.zeros(total - last, embedding_dim)) if prefix_conditioned else None

    @property
    def scale(self) -> float | None:
        """Of the one softmax that the token softmaxes are together: the sum of theirs; None where their weight is not 1."""
        return sum(self.scales) if self.token_weight == 1 else None

    @property
    def margin_room(self) -> float:
        """Of the position that leaves least."""
        if self.margin_kind == "cosface":
            return min(self.margins)
        return min(min(m, torch.pi / 2 - m) for m in self.margins)

    def connect(self, source: Named) -> None:
        """Find the codes of the identities of the training source. UserError if one has none."""
        self.codes.connect(source)

    def prepare(self, batch: Batch) -> Mapping[str, Tensor]:
        """Tokens of the batch's identities; runs in the loader."""
        return self.codes.of(batch.labels).named("code")

    # --- logits ----------------------------------------------------------------------------------------

    def cosines(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """``[n, L, K]`` from embeddings ``[n, D]``; the tokens ``[n, L]`` before each position matter where they are conditions."""
        centers = unit_rows(self.weight.to(embeddings.dtype))
        if self.prefixes is None and not len(self.projections):
            return by_position(linear(unit_rows(embeddings), centers), self.slots)
        rows = embeddings[None] if self.prefixes is None else embeddings + self._prefix_rows(tokens)
        for layer, projection in enumerate(self.projections):
            rows = torch.matmul(rows if layer == 0 else rows.relu(), projection.to(rows.dtype))
        queries = unit_rows(rows.flatten(0, 1)).view_as(rows)
        return torch.matmul(queries, centers[self.slots].mT).transpose(0, 1)

    def _prefix_rows(self, tokens: Tensor) -> Tensor:
        """``[L, n, D]``: sum over the tokens before each position."""
        assert self.prefixes is not None
        rows = self.prefixes[tokens[:, :-1] + self.first[:-1]].cumsum(1).transpose(0, 1)
        return torch.cat([rows.new_zeros(1, *rows.shape[1:]), rows])

    def logits(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """``[n, L, K]``: scaled cosines without margin, ``ABSENT`` where an alphabet is smaller; float32 outside autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
            logits = self.scale_of.to(wide.dtype)[:, None] * self.cosines(wide, tokens)
            return logits.where(self.present, ABSENT) if self._ragged else logits

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        request: StatisticsRequest = MARGIN_STATISTICS,
        extras: Mapping[str, Tensor] | None = None,
    ) -> ClassStatistics:
        """See :class:`topoface.heads.head.Head`; without ``extras`` the tokens are read here.

        Raises:
            UserError: there is extra mass and the token weight is not 1: the loss is no single softmax then.
        """
        if extra is not None and self.token_weight != 1:
            remedy = "set it to 1, or take the negatives of the batch out"
            raise UserError("leaves no single softmax that negatives could join", "token_weight", remedy)
        codes = Identities.of(extras, "code") if extras else self.codes.of(labels)
        assert codes.tokens is not None
        tokens = codes.tokens.to(embeddings.device)
        logits = self.logits(embeddings, tokens)
        with torch.autocast(embeddings.device.type, enabled=False):
            scales = self.scale_of.to(logits.dtype)
            own = logits.gather(2, tokens[..., None])[..., 0]
            cosine = own / scales
            target = scales * self._with_margin(cosine, shift)
            rest = other_tokens(logits, tokens)
            losses = negative_log_likelihood(target, rest.logsumexp(2))
            loss = self.token_weight * losses.sum(1)
            share = None
            if extra is not None:
                extra = logsumexp_over_ranks(extra) if extra.dim() == 0 else extra
                loss = joined_loss(losses, target, extra)
                share = torch.sigmoid(extra - joint_log_mass(losses, target)).detach()
            with torch.set_grad_enabled(request.differentiable and torch.is_grad_enabled()):
                log_p, entropy = log_probability_and_entropy(
                    target if request.margin else own, rest, request.log_epsilon
                )
                log_probability = log_p.mean(1) if self.per_token else log_p.sum(1)
                entropy = entropy.sum(1)
        return ClassStatistics(
            loss=loss,
            target_log_probability=log_probability,
            entropy=entropy,
            target_cosine=cosine.detach().mean(1),
            extra_probability=share,
        )

    def _with_margin(self, cosine: Tensor, shift: Tensor | None) -> Tensor:
        """Of ``[n, L]``; the shift ``[n]`` joins the margin of every position."""
        margin = self.margin_of.to(cosine.dtype)
        if shift is not None:
            margin = margin + shift[:, None]
        return (margins.arcface if self.margin_kind == "arcface" else margins.cosface)(cosine, margin)

    # --- decoding --------------------------------------------------------------------------------------

    @torch.no_grad()
    def next_token(self, embeddings: Tensor) -> NextToken:
        """The model that a beam search asks (`functional.prefix_tree`), for embeddings ``[n, D]``; without margin."""
        length = len(self.scales)
        if self.prefixes is None:
            nothing = torch.zeros(len(embeddings), length, dtype=torch.int64, device=embeddings.device)
            return independent(self.logits(embeddings, nothing).log_softmax(2))

        @torch.no_grad()
        def conditioned(prefixes: Tensor) -> Tensor:
            width, known = prefixes.shape[1:]
            rows = embeddings.repeat_interleave(width, 0)
            tokens = nn.functional.pad(prefixes.flatten(0, 1), (0, length - known))
            log_p = self.logits(rows, tokens)[:, known].log_softmax(1)
            return log_p.view(len(embeddings), width, -1)

        return conditioned

    def extra_repr(self) -> str:
        """What print(head) shows."""
        return f"alphabets={self.codes.table.alphabets}, margins={self.margins}, scales={self.scales}"


def _per_position(value: float | Sequence[float], length: int, where: str) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * length
    require(len(values) == length, where, list(values), f"give one number, or {length}: one a position")
    return values
