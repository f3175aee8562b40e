"""InsightFace's ``.bin`` pair files: pickles of ``(images, issame)``, read without running them."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from topoface.errors import UserError
from topoface.evaluation.pairs.restricted_pickle import Array, Machine, Refusal

REMEDY: Final = (
    "give a verification file as InsightFace publishes them (lfw.bin, cfp_fp.bin, agedb_30.bin ...)"
)


def read_insightface_bin(path: Path) -> tuple[list[memoryview], list[bool]]:
    """Encoded images and labels of a pair file; pair ``i`` is images ``2 i`` and ``2 i + 1``.

    The file is mapped, not loaded: the images are views into it.

    Args:
        path: the ``.bin`` file.

    Returns:
        ``(images, same)`` with twice as many images as labels.

    Raises:
        UserError: an absent, empty or damaged file, one that would call anything, or one that holds something else.
    """
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise UserError(f"cannot be read ({error})", str(path), REMEDY) from None
    return parse_insightface_bin(content, str(path))


def parse_insightface_bin(content: memoryview, where: str) -> tuple[list[memoryview], list[bool]]:
    """As :func:`read_insightface_bin`, from memory; ``where`` names the source in errors."""
    try:
        loaded = Machine(content).run()
        if (
            not isinstance(loaded, Sequence)
            or isinstance(loaded, str | bytes | memoryview)
            or len(loaded) != 2
        ):
            raise Refusal("it does not hold the pair (images, issame)")  # noqa: TRY301
        return _images_and_labels(*loaded)
    except Refusal as refusal:
        raise UserError(str(refusal), where, REMEDY) from None


def _images_and_labels(images: Any, same: Any) -> tuple[list[memoryview], list[bool]]:
    if isinstance(same, Array) and same.kind in ("b1", "u1", "i1"):
        same = list(memoryview(same.data).cast("B"))
    if not isinstance(images, list | tuple) or not isinstance(same, list | tuple):
        raise Refusal("images and issame are not two lists")
    labels = [bool(value.data[0]) if isinstance(value, Array) and value.data else value for value in same]
    if not labels or any(not isinstance(value, int) or value not in (0, 1) for value in labels):
        raise Refusal("issame is not a list of true and false")
    if len(images) != 2 * len(labels):
        raise Refusal(f"{len(images)} images do not make {len(labels)} pairs")
    encoded = []
    for number, image in enumerate(images):
        data = image.data if isinstance(image, Array) and image.kind == "u1" else image
        if not isinstance(data, bytes | memoryview) or not len(data):
            raise Refusal(f"image {number} is not the bytes of an encoded image")
        encoded.append(memoryview(data))
    return encoded, [bool(value) for value in labels]
