"""What varies in a drawn face: the traits of a person and the circumstances of one picture, as tables of ranges."""

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.floating[Any]]  # float32
T = TypeVar("T")


def span(low: float, high: float) -> Any:
    """A dataclass field that ``sample`` fills uniformly from [low, high)."""
    return field(metadata={"span": (low, high)})


def sample(kind: type[T], rng: np.random.Generator) -> T:
    """A ``kind`` (a dataclass of spans) with every field drawn by ``rng``, in the order of its fields."""
    low, width = _spans(kind)  # type: ignore[arg-type]  # classes are hashable
    return kind(*(low + width * rng.random(len(low))).tolist())


@cache
def _spans(kind: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    spans = np.array([each.metadata["span"] for each in fields(kind)])
    return spans[:, 0], spans[:, 1] - spans[:, 0]


@dataclass(frozen=True)
class Person:
    """Who it is. Lengths are pixels of the aligned crop; the origin lies midway between the eyes, y points down."""

    head_width: float = span(36.0, 45.0)  # half of it
    crown: float = span(38.0, 46.0)  # from the eyes up to the top of the skull
    chin: float = span(52.0, 61.0)  # from the eyes down to the tip of the chin
    jaw_taper: float = span(0.02, 0.30)
    jaw_square: float = span(0.0, 0.85)
    cheek: float = span(0.0, 1.0)
    ear_size: float = span(6.0, 10.5)
    ear_out: float = span(0.0, 4.5)
    ear_y: float = span(4.0, 13.0)

    eye_x: float = span(15.2, 20.2)  # half of the distance between the eyes
    eye_width: float = span(6.6, 9.8)
    eye_height: float = span(2.6, 5.2)
    eye_lower: float = span(0.45, 0.9)  # lower lid, as a share of the upper
    eye_tilt: float = span(-0.16, 0.24)
    eye_peak: float = span(-0.35, 0.45)  # where the upper lid is highest, -1 inner to 1 outer corner
    lash: float = span(0.55, 1.5)
    fold: float = span(0.0, 3.4)  # height of the lid fold; below 1 there is none
    iris_size: float = span(3.1, 4.3)
    iris_tone: float = span(0.0, 1.0)

    brow_y: float = span(8.2, 13.8)
    brow_width: float = span(8.0, 12.5)
    brow_thick: float = span(0.9, 2.9)
    brow_arch: float = span(0.0, 4.6)
    brow_slope: float = span(-0.18, 0.2)
    brow_gap: float = span(-1.5, 3.0)

    nose_length: float = span(16.0, 25.0)
    nose_width: float = span(5.0, 10.0)
    nose_tip: float = span(3.0, 5.6)
    nose_bridge: float = span(1.8, 4.0)
    nose_up: float = span(-0.8, 1.8)

    mouth_y: float = span(36.0, 43.5)
    mouth_width: float = span(11.0, 18.0)
    lip_upper: float = span(1.3, 4.2)
    lip_lower: float = span(2.0, 5.6)
    lip_bow: float = span(0.0, 1.0)
    lip_corner: float = span(-0.3, 2.2)
    lip_red: float = span(0.0, 1.0)

    skin_tone: float = span(0.0, 1.0)  # light to dark
    skin_warmth: float = span(-1.0, 1.0)
    hair_tone: float = span(0.0, 1.0)  # dark to fair
    hair_grey: float = span(0.0, 1.0)  # above 0.86: grey
    hair_style: float = span(0.0, 10.0)  # the integer part is a position in hair.STYLES
    hair_line: float = span(0.0, 1.0)
    hair_volume: float = span(0.0, 1.0)
    hair_part: float = span(-1.0, 1.0)
    hair_wave: float = span(0.0, 1.0)
    beard: float = span(0.0, 1.0)  # above 0.7: stubble to full
    moustache: float = span(0.0, 1.0)  # above 0.8
    freckles: float = span(0.0, 1.0)  # above 0.8
    mole: float = span(0.0, 1.0)  # above 0.7
    mark_seed: float = span(0.0, 1000.0)  # where freckles and mole sit


@dataclass(frozen=True)
class Shot:
    """How one picture of anybody was taken. Angles are radians."""

    yaw: float = span(-0.53, 0.53)
    pitch: float = span(-0.28, 0.28)
    shift_x: float = span(-3.5, 3.5)
    shift_y: float = span(-3.5, 3.5)
    turn: float = span(-0.15, 0.15)
    zoom: float = span(0.92, 1.08)

    smile: float = span(-0.3, 1.0)
    opening: float = span(-1.2, 1.0)  # above 0 the mouth is open
    brow_raise: float = span(-1.6, 3.2)
    frown: float = span(-0.09, 0.09)
    eye_open: float = span(0.55, 1.25)
    gaze_x: float = span(-1.0, 1.0)
    gaze_y: float = span(-0.6, 0.6)
    hair_worn: float = span(0.0, 1.0)  # below 0.45: in another style
    hair_move: float = span(-1.0, 1.0)

    exposure: float = span(0.72, 1.25)
    warmth: float = span(-0.17, 0.17)
    tint: float = span(-0.07, 0.07)
    light_angle: float = span(0.0, 2 * np.pi)
    light_strength: float = span(0.1, 0.55)
    light_warmth: float = span(-0.25, 0.25)
    saturation: float = span(0.55, 1.06)
    contrast: float = span(0.75, 1.15)

    blur: float = span(-0.8, 2.2)  # above 0: so many passes of a 3-tap filter
    noise: float = span(0.0, 5.5)  # standard deviation in grey levels

    glasses: float = span(0.0, 1.0)  # below 0.2
    glasses_shape: float = span(0.0, 1.0)
    cover: float = span(0.0, 1.0)  # which thing hides a part of the face, if any
    cover_x: float = span(-1.0, 1.0)
    cover_y: float = span(-1.0, 1.0)


def mix(palette: Colour, position: float) -> Colour:
    """The colour at ``position`` in [0, 1] along a palette [k, 3] of equal steps."""
    at = min(max(position, 0.0), 1.0) * (len(palette) - 1)
    low = min(int(at), len(palette) - 2)
    between: Colour = palette[low] + (at - low) * (palette[low + 1] - palette[low])
    return between


def _palette(*colours: str) -> Colour:
    return np.array([list(bytes.fromhex(each)) for each in colours], dtype=np.float32)


SKIN = _palette("ffe0cc", "f7cfb2", "edbb95", "dda277", "c4875c", "a66e4a", "84553a", "68422e", "503226")
HAIR = _palette("1b1718", "2b1f1b", "4a2f22", "6b4229", "8a4f2b", "b0622f", "c98f4e", "e0bb7c", "f0dcab")
GREY = _palette("6f6d6e", "a9a8a8", "dedcd8")
IRIS = _palette("2a170f", "4a2a17", "6e4320", "7d6a34", "5c7a4c", "4d8a8c", "5a93c4", "8aa6b8")
CLOTH = _palette("2e4057", "8d3b3b", "3f7d6e", "d9a441", "6a4c93", "d8d4cf", "333333", "4f86c6", "c96f8f")


@dataclass(frozen=True)
class Colours:
    """The colours of a person, float32 RGB [3] in 0 .. 255."""

    skin: Colour
    shade: Colour  # skin in its own shadow
    glow: Colour
    hair: Colour
    iris: Colour
    lips: Colour

    @classmethod
    def of(cls, who: Person) -> "Colours":
        """Colours that occur together: the darker the skin, the rarer fair hair and light eyes."""
        dark = who.skin_tone
        warm = who.skin_warmth
        skin = mix(SKIN, dark) * np.array([1.0, 1.0 - 0.025 * warm, 1.0 - 0.06 * warm], np.float32)
        rare = max(0.0, 1.0 - 1.25 * dark)
        hair = mix(HAIR, who.hair_tone ** (1.6 - rare) * (0.25 + 0.75 * rare))
        if who.hair_grey > 0.86:
            hair = mix(GREY, (who.hair_grey - 0.86) / 0.14)
        painted = 0.3 + 0.55 * who.lip_red
        red = np.array([196, 78, 84], np.float32) * (1.0 - 0.45 * dark)
        return cls(
            skin=skin,
            shade=skin * np.array([0.80, 0.70, 0.66], np.float32),
            glow=skin + (255 - skin) * 0.32,
            hair=hair,
            iris=mix(IRIS, who.iris_tone ** (1.5 - 0.5 * rare) * (0.3 + 0.7 * rare)),
            lips=skin * np.array([0.86, 0.62, 0.6], np.float32) * (1 - painted) + red * painted,
        )
