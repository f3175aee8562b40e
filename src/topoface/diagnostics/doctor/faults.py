"""Faults of the images of pairs: unreadable, grey, red and blue swapped, black borders."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import Pixels
from topoface.diagnostics.doctor.report import Finding, some
from topoface.errors import UserError
from topoface.evaluation.pairs.protocol import PairProtocol

GREY_SPREAD = 8  # between the channels of a pixel; JPEG rounds
DARK = 8
FACE = (slice(34, 90, 2), slice(34, 78, 2))  # eyes to mouth on the template: skin, mostly
# Of photographs of faces, more than 99 % have more red than blue there (LFW, CFP), of drawn ones 97 %.
COLD_SHARE, GREY_SHARE, DARK_SHARE, FEWEST = 0.1, 0.2, 0.5, 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """What the pixels of a protocol's images show.

    Attributes:
        hashes: of the decoded pixels; None for an image that cannot be read.
        grey: bool ``[n]``, no colour in the face.
        warmth: float64 ``[n]``, mean red minus mean blue of the face.
        dark: float64 ``[n]``, share of black pixels.
        failures: position and reason for each image that cannot be read.
    """

    hashes: list[bytes | None]
    grey: NDArray[np.bool_]
    warmth: NDArray[np.float64]
    dark: NDArray[np.float64]
    failures: dict[int, str]

    @property
    def cold_share(self) -> float:
        """Share of colour images with more blue than red in the face; NaN where there are none."""
        colour = self.warmth[~self.grey & np.isfinite(self.warmth)]
        return float((colour < 0).mean()) if len(colour) else float("nan")


def pixel_hash(image: Pixels) -> bytes:
    """Equal for equal pixels, however they were stored."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def look(protocol: PairProtocol, progress: Callable[[int, int], None] | None = None) -> Looks:
    """Read every image once."""
    total = len(protocol.images)
    hashes: list[bytes | None] = [None] * total
    grey, warmth, dark = np.zeros(total, np.bool_), np.full(total, np.nan), np.zeros(total)
    failures: dict[int, str] = {}
    for i in range(total):
        try:
            image = protocol.images[i]
        except UserError as error:
            failures[i] = error.what
            continue
        hashes[i] = pixel_hash(image)
        face = image[FACE].reshape(-1, 3).astype(np.int16)
        grey[i] = int((face.max(axis=1) - face.min(axis=1)).max()) <= GREY_SPREAD
        warmth[i] = float((face[:, 0] - face[:, 2]).mean())
        dark[i] = float((image[::2, ::2].max(axis=2) <= DARK).mean())
        if progress and (i % 64 == 63 or i == total - 1):
            progress(i + 1, total)
    return Looks(hashes=hashes, grey=grey, warmth=warmth, dark=dark, failures=failures)


def image_findings(protocol: PairProtocol, looks: Looks) -> list[Finding]:
    """Unreadable images, colour, black borders."""
    total, bad = len(looks.hashes), looks.failures
    names = protocol.images.names
    read = total - len(bad)
    reasons = [f"{names[i]} ({reason})" for i, reason in bad.items()]
    found = [
        Finding(
            check="images",
            level="wrong" if bad else "ok",
            text=f"{len(bad)} of {total:,} cannot be used: {some(reasons)}"
            if bad
            else f"all {total:,} decode to 112 x 112",
            figures={"images": total, "unusable": reasons},
        )
    ]
    if not read:
        return found
    grey, cold = float(looks.grey.sum() / read), looks.cold_share
    colours = read - int(looks.grey.sum())
    found.append(
        Finding(
            check="grey images",
            level="wrong" if grey > GREY_SHARE else "note" if grey else "ok",
            text=f"{int(looks.grey.sum()):,} of {read:,} have no colour" if grey else "none",
            figures={"share": grey},
        )
    )
    swapped = colours >= FEWEST and cold > COLD_SHARE
    text = (
        f"{1 - cold:.1%} of {colours:,} faces have more red than blue"
        if colours
        else "no colour images to tell by"
    )
    if swapped:
        text += ", and 97 % or more should: red and blue look swapped; read them as RGB"
    elif 0 < colours < FEWEST:
        text += ": too few to tell"
    found.append(
        Finding(
            check="red and blue",
            level="wrong" if swapped else "ok" if colours >= FEWEST else "note",
            text=text,
            figures={"share_with_more_blue": None if np.isnan(cold) else cold},
        )
    )
    median, many = (
        float(np.median(looks.dark[[h is not None for h in looks.hashes]])),
        float((looks.dark > 0.1).mean()),
    )
    found.append(
        Finding(
            check="black borders",
            level="wrong" if median > DARK_SHARE else "note" if many > DARK_SHARE else "ok",
            text=f"half of the images are black to {median:.1%} or more; {many:.1%} to more than a tenth",
            figures={"median": median, "share_above_a_tenth": many},
        )
    )
    return found
