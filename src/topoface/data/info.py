"""What a source holds, counted: behind ``topoface data info``."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from topoface.data.decode import FACE_SHAPE
from topoface.data.source import Source, spread

_SAMPLED_IMAGES = 128
_BAR_WIDTH = 40


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """Facts about a source.

    Attributes:
        uri: what was opened.
        images: number of images.
        identities: number of classes.
        per_identity: minimum, median, mean and maximum of the images per identity that has any.
        histogram: (fewest, most, identities) for each non-empty range of images per identity, ranges doubling.
        sizes: (height, width, images) of up to 128 images spread evenly, the most frequent first.
        empty_identities: classes without an image (gaps in the labels).
        notes: the source's own remarks.
        fingerprint: 32 hex digits that identify the data.
    """

    uri: str
    images: int
    identities: int
    per_identity: tuple[int, float, float, int]
    histogram: tuple[tuple[int, int, int], ...]
    sizes: tuple[tuple[int, int, int], ...]
    empty_identities: int
    notes: tuple[str, ...]
    fingerprint: str

    def lines(self) -> list[str]:
        """The facts as plain text, a line each."""
        least, median, mean, most = self.per_identity
        sampled = sum(count for _, _, count in self.sizes)
        sizes = ", ".join(f"{width} x {height}: {count}" for height, width, count in self.sizes)
        widest = max(count for _, _, count in self.histogram)
        return [
            self.uri,
            f"  images        {self.images:,}",
            f"  identities    {self.identities:,}",
            f"  per identity  min {least}, median {median:g}, mean {mean:.1f}, max {most}",
            *(
                f"    {_range(first, last):>11}  {'#' * max(1, round(_BAR_WIDTH * count / widest))} {count:,}"
                for first, last, count in self.histogram
            ),
            f"  pixel sizes   {sizes} (of {sampled} images looked at)",
            *(
                [f"  note          {self.empty_identities:,} identities have no image"]
                if self.empty_identities
                else []
            ),
            *(f"  note          {note}" for note in self.notes),
            f"  fingerprint   {self.fingerprint}",
        ]


def describe_source(source: Source) -> SourceInfo:
    """Count a source; decodes up to 128 of its images. UserError if it cannot be read."""
    counts = np.bincount(source.labels, minlength=source.identities)
    present = counts[counts > 0]
    sizes = Counter(source[i][0].shape[:2] for i in spread(len(source), _SAMPLED_IMAGES))
    powers = Counter(count.bit_length() for count in present.tolist())
    notes = source.notes
    unfit = sum(count for size, count in sizes.items() if size != FACE_SHAPE[:2])
    if unfit:
        notes += (
            f"{unfit} of {sizes.total()} images looked at are not 112 x 112: training needs aligned faces",
        )
    return SourceInfo(
        uri=source.uri,
        images=len(source),
        identities=source.identities,
        per_identity=(
            int(present.min()),
            float(np.median(present)),
            float(present.mean()),
            int(present.max()),
        ),
        histogram=tuple((2 ** (bits - 1), 2**bits - 1, count) for bits, count in sorted(powers.items())),
        sizes=tuple((height, width, count) for (height, width), count in sizes.most_common()),
        empty_identities=len(counts) - len(present),
        notes=notes,
        fingerprint=source.fingerprint(),
    )


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} - {last}"
