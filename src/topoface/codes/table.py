"""The table of codes: written once, memory-mapped by every process, and never recomputed.

It has a row for each identity, in the bytewise order of the uids, so that a code depends neither on how labels are
numbered nor on the order of a source. One changed code is a mislabelled identity: hence checkpoints remember the digest
of their table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from topoface.codes.folder import META, REMEDY, Folder, open_folder, write_folder
from topoface.codes.names import check_distinct, decoded, encoded
from topoface.codes.packing import Tokens, check_alphabets, pack, token_type
from topoface.errors import UserError


class Uids(Sequence[str]):
    """The uids of a table, decoded when they are asked for."""

    def __init__(self, stored: NDArray[np.bytes_]) -> None:
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> "Uids": ...
    def __getitem__(self, i: int | slice) -> "str | Uids":
        if isinstance(i, slice):
            return Uids(self.stored[i])
        return decoded(bytes(self.stored[i]))


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeTable:
    """Codes of C identities, L tokens each; rows in the bytewise order of the uids.

    Attributes:
        folder: where the arrays lie; ``array`` gives those that were written beside the codes.
        alphabets: number of tokens ``(K_1 .. K_L)`` of each position.
        codes: uint8 or uint16 ``[C, L]``, mapped; all rows differ.
        uids: name of each identity.
        packed: uint64 ``[C]``, mapped: the codes as numbers (`packing.pack`), ascending.
        owners: uint32 ``[C]``, mapped: whose codes those are.
        vectors: float16 ``[C, D]``, mapped: code vectors of length 1 up to rounding; None if it has none.
        books: float32 ``[sum K_j, D]``: what each token stands for, all positions one below the other; None if its tokens have
            no meaning of their own.
        meta: what it was made of, as given to `write_table`.
    """

    folder: Folder
    alphabets: tuple[int, ...]
    codes: Tokens
    uids: Uids
    packed: NDArray[np.uint64]
    owners: NDArray[np.uint32]
    vectors: NDArray[np.float16] | None
    books: NDArray[np.float32] | None
    meta: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Of the folder."""
        return self.folder.path

    @property
    def digest(self) -> str:
        """SHA-256 over all arrays, 64 hex digits."""
        return self.folder.digest

    @property
    def length(self) -> int:
        """L, tokens of a code."""
        return len(self.alphabets)

    @property
    def num_identities(self) -> int:
        """C."""
        return len(self.codes)

    @property
    def dimension(self) -> int | None:
        """D of the code vectors, or of the books; None if it has neither."""
        known = self.vectors if self.vectors is not None else self.books
        return None if known is None else int(known.shape[1])

    def rows_of(self, names: Sequence[str], where: str) -> NDArray[np.int64]:
        """Row ``[n]`` of each name.

        Args:
            names: uids, in any order.
            where: whose they are, for the message.

        Raises:
            UserError: one is not in the table.
        """
        wanted = encoded(names)
        rows = np.searchsorted(self.uids.stored, wanted).astype(np.int64)
        inside = np.minimum(rows, self.num_identities - 1)
        missing = np.flatnonzero(self.uids.stored[inside] != wanted)
        if len(missing):
            raise UserError(
                f"identity {names[missing[0]]!r} has no code in {self.path} ({len(missing):,} of {len(names):,} have none)",
                where,
                "build the codes from this source, or insert its identities with topoface codes insert",
            )
        return rows

    def tokens(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 ``[n, L]``: the codes of the rows ``[n]``."""
        return self.codes[rows].astype(np.int64)

    def unit_vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 ``[n, D]``: code vectors of the rows ``[n]``, of length 1 again (float16 is off by 1e-3).

        Raises:
            UserError: the table has no vectors.
        """
        if self.vectors is None:
            raise UserError("has no code vectors", str(self.path), "build it from embeddings")
        vectors: NDArray[np.float32] = self.vectors[rows].astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, lengths, out=vectors, where=lengths > 0)
        return vectors

    def owners_of(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Row ``[n]`` that has each code ``[n, L]``; -1 where nobody has."""
        wanted = pack(codes, self.alphabets)
        at = np.minimum(np.searchsorted(self.packed, wanted), self.num_identities - 1)
        return np.where(self.packed[at] == wanted, self.owners[at].astype(np.int64), -1)


def write_table(
    folder: Path | str,
    *,
    codes: NDArray[np.integer],
    alphabets: Sequence[int],
    uids: Sequence[str],
    vectors: NDArray[np.floating] | None = None,
    books: NDArray[np.floating] | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> CodeTable:
    """Write a table beside its name, rename it, and open it.

    Args:
        folder: must not exist yet: codes are never replaced under a run that uses them.
        codes: ``[C, L]``, all rows different.
        alphabets: K of each position.
        uids: name of each row, all different; rows are put into their bytewise order.
        vectors: ``[C, D]`` of length 1.
        books: ``[sum K_j, D]``.
        arrays: more to keep beside them, by name.
        meta: what the table was made of; goes into ``meta.json``.

    Raises:
        UserError: codes or uids occur twice, a token lies outside its alphabet, or the folder exists or cannot be written.
    """
    folder = Path(folder)
    alphabets = check_alphabets(alphabets, str(folder))
    names = encoded(uids)
    if len(names) != len(codes):
        raise ValueError(f"{len(names)} uids for {len(codes)} codes")
    if (names[1:] < names[:-1]).any():
        order = np.argsort(names, kind="stable")
        names, codes = names[order], codes[order]
        vectors = None if vectors is None else vectors[order]
    check_distinct(names, str(folder))
    packed, owners = _sorted_codes(codes, alphabets, str(folder))
    contents: dict[str, NDArray[Any]] = {
        "codes": codes.astype(token_type(alphabets)),
        "uids": names,
        "packed": packed,
        "owners": owners,
        **(arrays or {}),
    }
    if vectors is not None:
        contents["vectors"] = vectors.astype(np.float16)
    if books is not None:
        contents["books"] = books.astype(np.float32)
    facts = {"identities": len(codes), "alphabets": list(alphabets), "made": dict(meta or {})}
    write_folder(folder, contents, facts)
    return open_table(folder)


def open_table(path: Path | str) -> CodeTable:
    """Map a table that `write_table` wrote; nothing is read as a whole.

    Raises:
        UserError: none is there, or it is damaged: a file is missing, or of another size or form than was written.
    """
    folder = open_folder(Path(path))
    try:
        identities, alphabets = int(folder.facts["identities"]), tuple(folder.facts["alphabets"])
        meta = dict(folder.facts["made"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"does not describe codes ({error!r})", f"{path}/{META}", REMEDY) from error
    table = CodeTable(
        folder=folder,
        alphabets=check_alphabets(alphabets, f"{path}/{META}"),
        codes=folder.array("codes"),
        uids=Uids(folder.array("uids")),
        packed=folder.array("packed"),
        owners=folder.array("owners"),
        vectors=folder.array("vectors") if "vectors" in folder else None,
        books=folder.array("books") if "books" in folder else None,
        meta=meta,
    )
    shapes = [table.uids.stored.shape, table.packed.shape, table.owners.shape]
    if table.codes.shape != (identities, len(alphabets)) or shapes != [(identities,)] * 3:
        raise UserError("does not describe the arrays beside it", f"{path}/{META}", REMEDY)
    return table


def _sorted_codes(
    codes: NDArray[np.integer], alphabets: Sequence[int], where: str
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """The codes as numbers, ascending, and the row of each."""
    if codes.ndim != 2 or codes.shape[1] != len(alphabets) or not len(codes):
        raise ValueError(f"codes of shape {codes.shape} for {len(alphabets)} alphabets")
    if (codes < 0).any() or (codes >= np.asarray(alphabets)).any():
        raise UserError("a token lies outside its alphabet", where, f"use 0 to K - 1 of {list(alphabets)}")
    packed = pack(codes, alphabets)
    owners = np.argsort(packed, kind="stable")
    packed = packed[owners]
    twice = int((packed[1:] == packed[:-1]).sum())
    if twice:
        raise UserError(
            f"{twice:,} identities have the code of another", where, "give each a code of its own"
        )
    return packed, owners.astype(np.uint32)
