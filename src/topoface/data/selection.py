"""Part of a source: the identities that have enough images, and a long tail made of any set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import Pixels
from topoface.data.source import Source, content_hash
from topoface.errors import UserError
from topoface.functional.draws import generator


class Selection(Source):
    """The identities of a source with at least so many images, each with at most so many of them, numbered anew in the same order.

    Who keeps how many is drawn, and so are the images that are kept, so that the rare identities of such a long tail differ from the
    frequent ones in nothing else. (Where people are rare by nature, their photographs come from elsewhere, too.) Another tail of the
    same seed only adds images of an identity, or takes some away.

    Its fingerprint is made of that of the source and of the positions that are left.

    Attributes:
        thinned: whether images were left out by chance.

    Args:
        source: what is selected from.
        uri: names this part.
        least_images: of an identity that stays.
        most_images: that an identity keeps: one of these numbers, dealt out in equal shares; none: no image is left out.
        seed: of what is drawn.

    Raises:
        UserError: no identity has as many.
    """

    def __init__(
        self,
        source: Source,
        uri: str,
        *,
        least_images: int = 1,
        most_images: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.uri, self.source, self.thinned = uri, source, bool(most_images)
        labels = source.labels
        counts = np.bincount(labels, minlength=source.identities)
        kept = np.flatnonzero(counts >= least_images)
        if len(kept) == 0:
            raise UserError(
                f"no identity has {least_images} images",
                uri,
                f"the largest has {counts.max()}: ask for fewer",
            )
        self.notes = source.notes
        if least_images > 1:
            self.notes += (
                f"{len(kept):,} of {source.identities:,} identities have {least_images} images or more",
            )
        number = np.full(source.identities, -1)
        number[kept] = np.arange(len(kept))
        stay = number[labels] >= 0
        if most_images:
            most = np.zeros(source.identities, dtype=np.int64)
            most[kept] = generator(seed, "most_images").permutation(np.resize(most_images, len(kept)))
            stay &= _drawn_rank(labels, seed) < most[labels]
            self.notes += (_thinned(np.bincount(labels[stay])[kept], int(counts[kept].sum()), most_images),)
        self._positions = np.flatnonzero(stay)
        self._labels = number[labels[self._positions]].astype(np.int64)
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
        return self._part_of(self.source.fingerprint())

    def stamp(self) -> str:
        """See ``Source.stamp``."""
        return self._part_of(self.source.stamp())

    def _part_of(self, whole: str) -> str:
        return content_hash([whole.encode(), self._positions.astype("<i8").tobytes()])


def _drawn_rank(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """int64 ``[n]``: place of each image in a drawn order of the images of its identity."""
    drawn = np.lexsort((generator(seed, "images_kept").random(len(labels)), labels))
    ordered = labels[drawn]
    rank = np.empty_like(drawn)
    rank[drawn] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return rank


def _thinned(left: NDArray[np.int64], images: int, most_images: Sequence[int]) -> str:
    """The note on what was left out."""
    numbers = ", ".join(map(str, most_images))
    return f"{left.sum():,} of {images:,} images are kept: each identity, drawn at random, has at most one of {numbers}"
