"""Part of a source: the identities that have enough images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import Pixels
from topoface.data.source import Source, content_hash
from topoface.errors import UserError


class Selection(Source):
    """The identities of a source with at least so many images, numbered anew in the same order.

    Its fingerprint is made of that of the source and of the positions that are left.

    Args:
        source: what is selected from.
        least_images: of an identity that stays.
        uri: names this part.

    Raises:
        UserError: no identity has as many.
    """

    def __init__(self, source: Source, least_images: int, uri: str) -> None:
        self.uri, self.source = uri, source
        counts = np.bincount(source.labels, minlength=source.identities)
        kept = np.flatnonzero(counts >= least_images)
        if len(kept) == 0:
            raise UserError(
                f"no identity has {least_images} images",
                uri,
                f"the largest has {counts.max()}: ask for fewer",
            )
        self.notes = (
            *source.notes,
            f"{len(kept):,} of {source.identities:,} identities have {least_images} images or more",
        )
        number = np.full(source.identities, -1)
        number[kept] = np.arange(len(kept))
        self._positions = np.flatnonzero(number[source.labels] >= 0)
        self._labels = number[source.labels[self._positions]].astype(np.int64)
        names = source.names
        self._names = [names[int(label)] for label in kept]

    @property
    def identities(self) -> int:
        """Those that stayed."""
        return len(self._names)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[len(self)]``."""
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        """Those of the source."""
        return self._names

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i: int) -> tuple[Pixels, int]:
        return self.source[int(self._positions[i])][0], int(self._labels[i])

    def read_into(self, i: int, out: Pixels, *, mirror: bool = False) -> None:
        """See :class:`Source`; as fast as the source."""
        self.source.read_into(int(self._positions[i]), out, mirror=mirror)

    def describe(self, i: int) -> str:
        """As the source names it."""
        return self.source.describe(int(self._positions[i]))

    def fingerprint(self) -> str:
        """See the class."""
        return content_hash([self.source.fingerprint().encode(), self._positions.astype("<i8").tobytes()])
