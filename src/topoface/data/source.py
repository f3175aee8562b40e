"""What a source of labelled faces is."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import Pixels, store_face

SYNTHETIC = "synthetic:"


class Source(Protocol):
    """Labelled face images, by position. Reading is thread-safe and always gives the same pixels.

    ``for image, label in source`` works too; a negative position counts from the end and one out of
    range raises IndexError, as in a list.

    Attributes:
        uri: what ``open_source`` was given.
        notes: what a reader of the data should know (files that were ignored, say), a sentence each.
    """

    uri: str
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def identities(self) -> int:
        """Number of classes; labels are ``0 .. identities - 1``."""

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[len(self)]``; read once. UserError if the stored labels are unusable."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The uid of each label: what names an identity however labels are numbered. All differ."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> tuple[Pixels, int]:
        """Image uint8 RGB ``[H, W, 3]`` of any size, and its label. UserError if it cannot be read."""

    @abstractmethod
    def describe(self, i: int) -> str:
        """Names the file or record of a sample, for messages."""

    @abstractmethod
    def fingerprint(self) -> str:
        """32 hex digits that change when the data does; independent of where the data lies.

        Each source says in its own docstring which bytes it covers: all of them would take as long as
        a pass over the data.
        """

    def stamp(self) -> str:
        """Changes when the fingerprint or a file's time of change does: for what is kept on this machine and found again."""
        return self.fingerprint()

    def read_into(self, i: int, out: Pixels, *, mirror: bool = False) -> None:
        """Read sample ``i`` into ``out``, uint8 ``[112, 112, 3]``, mirrored left to right if asked.

        Raises:
            UserError: the sample cannot be read, or is not 112 x 112.
        """
        store_face(self[i][0], out, self.describe(i), mirror=mirror)


def spread(size: int, most: int) -> list[int]:
    """At most ``most`` positions, evenly spread over ``range(size)``, first and last included."""
    return [int(i) for i in np.unique(np.linspace(0, size - 1, min(size, most)).astype(np.int64))]


def content_hash(parts: Iterable[bytes | memoryview]) -> str:
    """32 hex digits over byte strings and where each of them ends."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()
