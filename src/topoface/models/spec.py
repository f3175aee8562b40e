"""What a model expects of a face image and what it gives back: the contract every consumer reads. No torch here."""

import math
from dataclasses import dataclass

from topoface.errors import UserError

LARGEST_SIZE = 4096  # pixels or embedding width: keeps a tampered file from asking for terabytes


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """How images become embeddings.

    Attributes:
        dimension: width D of the embeddings.
        image_size: height and width in pixels of the aligned images that come in.
        input_size: height and width that the backbone sees; the model resizes by area averaging.
        colour: channel order that the backbone sees, ``"rgb"`` or ``"bgr"``; images come in as RGB.
        mean: subtracted from pixels in 0..255.
        scale: what pixels are divided by after that.
        template: name of the five-point template that the faces are aligned to.

    Raises:
        UserError: when a value is of the wrong type or out of range.
    """

    dimension: int
    image_size: int = 112
    input_size: int = 112
    colour: str = "rgb"
    mean: float = 127.5
    scale: float = 127.5
    template: str = "arcface_112"

    def __post_init__(self) -> None:
        for name in ("dimension", "image_size", "input_size"):
            require_whole(getattr(self, name), f"spec.{name}", 1, LARGEST_SIZE)
        if self.colour not in ("rgb", "bgr"):
            raise UserError(f"{self.colour!r} is no channel order", "spec.colour", "write rgb or bgr")
        if not _is_number(self.mean):
            raise UserError(f"{self.mean!r} is no finite number", "spec.mean", "write e.g. 127.5")
        if not _is_number(self.scale) or self.scale <= 0:
            raise UserError(f"{self.scale!r} is no positive number", "spec.scale", "write e.g. 127.5")
        if not isinstance(self.template, str):
            raise UserError(f"{self.template!r} is no name", "spec.template", "write e.g. arcface_112")


def require_whole(value: object, where: str, low: int, high: int) -> None:
    """Refuse with a `UserError` what is not a whole number in ``low..high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{value!r} is no whole number in {low}..{high}", where, "change it")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
