"""A code table as the labels of a training source see it: what heads and methods read in the loader for each batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from topoface.codes.names import Named, numbered, origin
from topoface.codes.table import open_table
from topoface.errors import UserError
from topoface.functional.collectives import gather_rows

AT_ONCE = 2**16  # names looked up


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Some identities by label, and what the table says of each; the same leading shape ``[...]`` everywhere.

    Attributes:
        labels: int64 ``[...]``; -1 for none.
        tokens: int64 ``[..., L]``, or None where they are not needed.
        vectors: float32 ``[..., D]``, or None where they are not needed.
    """

    labels: Tensor
    tokens: Tensor | None
    vectors: Tensor | None

    def named(self, group: str) -> dict[str, Tensor]:
        """As entries of a batch's extras."""
        parts = {"labels": self.labels, "tokens": self.tokens, "vectors": self.vectors}
        return {f"{group}_{name}": part for name, part in parts.items() if part is not None}

    @staticmethod
    def of(extras: Mapping[str, Tensor], group: str) -> "Identities":
        """From the entries of a batch's extras."""
        return Identities(
            labels=extras[f"{group}_labels"],
            tokens=extras.get(f"{group}_tokens"),
            vectors=extras.get(f"{group}_vectors"),
        )

    def to(self, like: Tensor) -> "Identities":
        """On the device of ``like``, the vectors also of its type."""
        return self._each(lambda part: part.to(like) if part.is_floating_point() else part.to(like.device))

    def flat(self) -> "Identities":
        """Of shape ``[m]``."""
        axes = self.labels.ndim - 1
        return self._each(lambda part: part.flatten(0, axes))

    def gathered(self) -> "Identities":
        """Those ``[n]`` of all ranks, in rank order."""
        return self._each(gather_rows)

    def joined(self, others: "Identities") -> "Identities":
        """These ``[n]`` and others ``[m]``."""
        mine, theirs = self.named(""), others.named("")
        return Identities.of({name: torch.cat([part, theirs[name]]) for name, part in mine.items()}, "")

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Identities":
        return Identities.of({name: change(part) for name, part in self.named("").items()}, "")


class LabelCodes(nn.Module):
    """Rows of a memory-mapped code table by label. Holds no tensor; a checkpoint of it remembers which table it was.

    Args:
        table: folder that ``topoface codes build`` made.
        num_classes: C of the training source.
        embedding_dim: D.
        tokens: whether tokens are wanted.
        vectors: whether code vectors are.

    Raises:
        UserError: there is no table, its codes have changed since they were made, it has no code vectors though they are wanted, or they
            are not of D numbers.
    """

    def __init__(
        self, table: str, num_classes: int, embedding_dim: int, *, tokens: bool, vectors: bool
    ) -> None:
        super().__init__()
        try:
            self.table = open_table(table)
        except UserError as error:
            what = f"is {table!r}; {error.where} {error.what}"
            raise UserError(what, "table", "make it with: topoface codes build") from error
        try:
            self.table.folder.verify("codes", "uids")  # a byte in them is a mislabelled identity
        except UserError as error:
            raise UserError(f"is {table!r}; {error.where} {error.what}", "table", error.remedy) from error
        self.num_classes, self._tokens, self._vectors = num_classes, tokens, vectors
        if vectors and self.table.vectors is None:
            raise UserError(f"is {table!r}, which has no code vectors", "table", "build it from embeddings")
        if vectors and self.table.dimension != embedding_dim:
            raise UserError(
                f"is {table!r}, whose code vectors have {self.table.dimension} numbers and embeddings {embedding_dim}",
                "table",
                f"build it with {embedding_dim}, or change model.dimension",
            )
        self._names: Sequence[str] | None = None

    def connect(self, source: Named) -> None:
        """Take the names of the training source's identities.

        Raises:
            UserError: one of them is not in the table, or they are plain numbers and the table was built from other faces.
        """
        names, first = source.names, origin(source)
        made_from = self.table.meta.get("fingerprint")
        if made_from and numbered(first.names) and first.fingerprint() != made_from:
            raise UserError(
                f"{self.table.path} was built from other faces, and these name their identities by number alone",
                "table",
                "build codes from these",
            )
        for start in range(0, self.num_classes, AT_ONCE):
            self.table.rows_of(names[start : start + AT_ONCE], "table")
        self._names = names

    def rows(self, labels: Tensor) -> NDArray[np.int64]:
        """Row of the table of each label ``[...]``."""
        if self._names is None:
            raise UserError(
                "the labels have no codes yet", "table", "call connect(source) with the training source"
            )
        # found anew each time: a row for each label would be memory that grows with the identities
        names = [self._names[label] for label in labels.flatten().tolist()]
        return self.table.rows_of(names, "table").reshape(labels.shape)

    def of(self, labels: Tensor) -> Identities:
        """What the table says of labels ``[...]``; nothing of use where a label is -1."""
        shape = labels.shape
        rows = self.rows(labels.clamp(min=0).flatten())
        tokens = torch.from_numpy(self.table.tokens(rows)) if self._tokens else None
        vectors = torch.from_numpy(self.table.unit_vectors(rows)) if self._vectors else None
        tokens, vectors = (x if x is None else x.view(*shape, x.shape[1]) for x in (tokens, vectors))
        return Identities(labels=labels, tokens=tokens, vectors=vectors)

    def get_extra_state(self) -> Tensor:
        """The table's digest, for the checkpoint."""
        return torch.tensor(list(bytes.fromhex(self.table.digest)), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse to go on with another table: every changed code would be a mislabelled identity."""
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise UserError(
                f"{self.table.path} is not the table that the run began with", "table", "give it that one"
            )
