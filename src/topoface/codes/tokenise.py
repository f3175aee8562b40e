"""From code vectors to codes: the kinds of tokenisers, by name (section 4 of our reading of GIF)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from topoface.codes.arithmetic import numeric_codes, random_codes, reed_solomon_codes
from topoface.codes.clustering import Rows
from topoface.codes.nodes import Progress
from topoface.codes.residual import build_residual, fit_books
from topoface.codes.shape import check_room, message_length
from topoface.codes.tree import build_tree
from topoface.errors import UserError
from topoface.functional.draws import generator

Kind = Literal["rq", "aligned", "axis", "arbitrary", "shuffled", "random", "rs", "numeric"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MEANING: tuple[Kind, ...] = ("rq", "aligned")
"""Whose tokens mean the same under every prefix, so that they have a code book."""
COUNTED: tuple[Kind, ...] = ("random", "rs", "numeric")
"""Whose codes follow from the row number alone."""


class Tokenised(NamedTuple):
    """Codes int64 ``[C, L]``, all different, and books float32 ``[sum K_j, D]`` where tokens have a meaning of their own."""

    codes: NDArray[np.integer]
    books: Rows | None


def tokenise(
    vectors: NDArray[np.float32],
    alphabets: Sequence[int],
    *,
    kind: Kind,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tokenised:
    """Give every identity a code of its own.

    The same arguments give the same codes on one machine; a near-tie may fall otherwise on another, so codes
    are stored and never made again.

    Args:
        vectors: ``[C, D]``, in the bytewise order of the uids.
        alphabets: K of each position.
        kind: ``rq``, residual quantisation; ``aligned``, ``axis``, ``arbitrary``, a balanced tree with labels of that sort;
            ``shuffled``, the arbitrary tree's codes dealt out at random; ``random``, ``rs``, ``numeric``, see `arithmetic`.
        seed: of whatever is drawn.
        progress: called with levels done and in all.

    Raises:
        UserError: there are more identities than codes, or the shape does not suit the kind.
    """
    identities = len(vectors)
    alphabets = check_room(tuple(alphabets), identities, f"{kind} codes")
    if kind in COUNTED:
        rows = np.arange(identities)
        message = message_length(alphabets, identities)
        return Tokenised(counted_codes(rows, alphabets, kind=kind, seed=seed, message=message), None)
    if kind == "rq":
        codes = build_residual(vectors, alphabets, seed=seed, progress=progress)
    else:
        labels = "arbitrary" if kind == "shuffled" else kind
        codes = build_tree(vectors, alphabets, labels=labels, seed=seed, progress=progress)  # type: ignore[arg-type]
    if kind == "shuffled":
        codes = codes[generator(seed, "code shuffle").permutation(identities)]
    return Tokenised(codes, fit_books(vectors, codes, alphabets) if kind in MEANING else None)


def counted_codes(
    rows: NDArray[np.int64], alphabets: tuple[int, ...], *, kind: Kind, seed: int, message: int
) -> NDArray[np.integer]:
    """Codes ``[n, L]`` of row numbers ``[n]``, for the kinds that look at nothing else.

    Args:
        rows: below the number of codes; for ``rs`` below K^message.
        alphabets: K of each position.
        kind: one of `COUNTED`.
        seed: of the shuffle.
        message: tokens of ``rs`` codes that tell identities apart.

    Raises:
        UserError: the shape does not suit the kind.
    """
    if kind == "numeric":
        return numeric_codes(rows, alphabets)
    if kind == "random":
        return random_codes(rows, alphabets, seed=seed)
    if len(set(alphabets)) > 1:
        where = "alphabets of rs codes"
        raise UserError(f"are {list(alphabets)}", where, "give the same prime for all positions")
    return reed_solomon_codes(rows, alphabets[0], len(alphabets), message, seed=seed)
