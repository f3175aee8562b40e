"""The names by which identities have their codes, and whether they say who somebody is."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError


class Named(Protocol):
    """A source of faces, as far as its names go."""

    @property
    def names(self) -> Sequence[str]:
        """Name of the identity of each label."""
        ...

    def fingerprint(self) -> str:
        """Changes when the faces do."""
        ...


def encoded(names: Sequence[str]) -> NDArray[np.bytes_]:
    """Uids as bytes of one width ``[n]``, whose order is the bytewise one."""
    stored: NDArray[np.bytes_] = np.array([name.encode("utf-8", "surrogateescape") for name in names], "S")
    return stored


def decoded(uid: bytes) -> str:
    """The reverse of `encoded`, of one."""
    return uid.decode("utf-8", "surrogateescape")


def check_distinct(stored: NDArray[np.bytes_], where: str) -> None:
    """Refuse uids ``[n]``, in their order, of which two are the same.

    Raises:
        UserError: two are.
    """
    twice = np.flatnonzero(stored[1:] == stored[:-1])
    if len(twice):
        name = decoded(bytes(stored[twice[0]]))
        raise UserError(f"two identities are named {name!r}", where, "rename one")


def origin(source: Named) -> Named:
    """What names come from: of a part of a source, the whole."""
    while hasattr(source, "source"):
        source = source.source
    return source


def numbered(names: Sequence[str]) -> bool:
    """Whether names are but the numbers of the labels, as in RecordIO: label 7 of other faces is somebody else.

    A look at five: folders named by numbers are sorted as text, so that 10 comes before 2.
    """
    last = len(names) - 1
    return all(names[k] == str(k) for k in {0, min(1, last), min(2, last), last // 2, last})
