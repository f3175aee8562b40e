"""What grows on a head: hair, beard and moustache; and the marks of its skin."""

import math
from dataclasses import dataclass

import numpy as np

from topoface.data.drawing.canvas import Canvas, Plane, Window, disc, edge
from topoface.data.drawing.face import skull
from topoface.data.drawing.traits import Colour, Colours, Person, Shot


@dataclass(frozen=True)
class Style:
    """A way to wear hair; lengths in pixels, heights from the eyes down."""

    top: float  # volume above the skull
    side: float  # volume beside it
    line: float  # height of the hairline in the middle
    curtain: float  # height that the hairline comes down to at the sides
    power: float  # how late it comes down
    sweep: float = 0.0  # how much one side of the fringe hangs lower
    fall: float | None = None  # how far down the hair behind the head reaches
    curl: float = 0.0  # how far locks stand out of the outline
    cover: float = 1.0  # opacity
    bun: float = 0.0  # its radius
    parted: bool = False


STYLES = (
    Style(top=3.0, side=1.0, line=-26, curtain=7, power=8),  # crop
    Style(top=6.0, side=2.0, line=-24, curtain=8, power=9, sweep=8),  # side parting
    Style(top=10.0, side=1.0, line=-28, curtain=5, power=10, sweep=3, curl=0.8),  # quiff
    Style(top=5.0, side=6.0, line=-15, curtain=55, power=14, fall=50),  # bob with a fringe
    Style(top=4.0, side=6.0, line=-37, curtain=14, power=1.7, fall=120, parted=True),  # long, parted
    Style(top=6.0, side=9.0, line=-25, curtain=80, power=9, sweep=8, fall=120, curl=1.6),  # long, wavy
    Style(top=12.0, side=11.0, line=-24, curtain=8, power=9, fall=30, curl=2.2),  # afro
    Style(top=2.5, side=0.6, line=-28, curtain=7, power=6, bun=13),  # bun
    Style(top=0.4, side=0.2, line=-27, curtain=2, power=8, cover=0.5),  # shaved
    Style(top=0.3, side=0.3, line=-75, curtain=9, power=14, cover=0.75),  # bald on top
)
HAIRY = 8  # the first so many of them can be worn by one person on different days


def worn_style(who: Person, shot: Shot) -> int:
    """The style in this picture: the person's own, or now and then another, as people change their hair."""
    own = int(who.hair_style)
    return int(HAIRY * shot.hair_worn / 0.45) if own < HAIRY and shot.hair_worn < 0.45 else own


class Hair:
    """The hair of one person in one picture: painted behind the head first, before it later."""

    def __init__(self, canvas: Canvas, who: Person, shot: Shot, ink: Colours) -> None:
        self.who, self.shot, self.ink = who, shot, ink
        self.style = style = STYLES[worn_style(who, shot)]
        volume = 0.6 + 0.8 * who.hair_volume
        self.side, self.top = style.side * volume, style.top * volume
        reach = who.head_width + self.side + 4
        bottom = max(style.fall or 0.0, style.curtain) + 4
        self.box = canvas.window(-reach, reach, -who.crown - self.top - 4, bottom)
        x, y = self.box.x, self.box.y
        # below the eyes the outline is the jaw's, stretched to where the hair ends
        stretch = who.chin / style.fall if style.fall else 1.0
        hanging = np.minimum(y, y * stretch) if stretch < 1 else np.maximum(y, y * stretch)
        self.radius = skull(who, x, hanging, self.side, self.top)
        self.outline = (self.radius - 1.0) * 46
        if style.curl:
            phase = 0.4 * shot.hair_move
            self.outline += style.curl * np.sin(0.62 * x + phase) * np.sin(0.55 * y - phase)

    def behind(self, canvas: Canvas) -> None:
        """What is seen behind the head."""
        if self.style.bun:
            radius = self.style.bun * (0.7 + 0.4 * self.who.hair_volume)
            at = -self.who.crown - 0.25 * radius
            box = canvas.window(-radius - 2, radius + 2, at - radius - 2, at + radius + 2)
            box.paint(edge(disc(box.x, box.y, 0.0, at, radius, 0.85 * radius)), self._strands(box))
        if self.style.fall:
            self.box.paint(edge(self.outline), self.ink.hair * 0.62)

    def before(self) -> None:
        """What frames the face, and its shadow on the forehead."""
        who, style, x, y = self.who, self.style, self.box.x, self.box.y
        part = 0.3 * who.hair_part if style.parted else 0.0
        across = x * (1 / who.head_width)
        away = np.minimum(np.abs(across - part), 1.0)
        line = style.line + 11 * (who.hair_line - 0.5) + 1.5 * self.shot.hair_move
        drop = (style.curtain - line) * away**style.power
        sweep = math.copysign(style.sweep, who.hair_part) * across
        under = y - (line + drop + sweep + 0.5 * np.sin(0.8 * x + 6 * who.hair_wave))
        under /= 1.0 + drop * (style.power / who.head_width)  # a distance again where the line is steep
        if style.fall:  # beside the face it hangs down
            under = np.minimum(under, (0.96 - np.abs(across)) * who.head_width)
        if style.cover == 1.0:
            self.box.paint(0.5 * edge(np.maximum(under - 3.0, self.radius * 46 - 46), 3.0), self.ink.shade)
        soft = 0.9 if style.cover == 1.0 else 2.5
        cover = edge(np.maximum(self.outline, under), soft)
        self.box.paint(style.cover * cover, self._strands(self.box, self.radius))

    def _strands(self, box: Window, radius: Plane | None = None) -> Colour:
        """The hair's colour [3, h, w] with strands that run from the crown, and a band that shines."""
        who = self.who
        x, y = box.x, box.y
        if self.style.curl > 2:
            tone = np.sin(0.95 * x + 2 * np.sin(0.5 * y)) * np.sin(0.95 * y + 2 * np.sin(0.5 * x))
        else:
            from_crown = y + (who.crown + self.top + 16)
            strand = (x - 12 * who.hair_part) / np.maximum(from_crown, 6.0)
            tone = np.sin(24 * strand + 2.2 * who.hair_wave * np.sin(0.16 * y))
        colour: Colour = self.ink.hair[:, None, None] * (1.0 + 0.13 * tone)
        if radius is not None:
            shine = 1.0 / (1.0 + np.square((radius - 0.82) * 14))
            colour += (0.14 * (235 - self.ink.hair))[:, None, None] * (shine * (1.0 + 0.3 * tone))
        return colour


def beard(canvas: Canvas, who: Person, shot: Shot, ink: Colours) -> None:
    """Beard and moustache, from stubble to full, where the person wears them."""
    colour = 0.8 * ink.hair + 0.1 * ink.shade
    if who.beard > 0.7:
        much = (who.beard - 0.7) / 0.3
        box = canvas.window(-who.head_width - 2, who.head_width + 2, 2, who.chin + 4)
        x, y = box.x, box.y
        bare = disc(x, y, 0.0, 12.0, (0.93 - 0.12 * much) * who.head_width, who.mouth_y - 10.0)
        growth = np.maximum(np.maximum((skull(who, x, y) - 1.0) * 42 - 1.5 * much, 7.0 - y), -bare)
        hairs = 0.9 + 0.1 * np.sin(1.9 * x + np.sin(1.3 * y)) * np.sin(1.7 * y)
        box.paint((0.3 + 0.65 * much) * hairs * edge(growth, 2.5), colour)
    if who.moustache > 0.8:
        wide, thick = 0.95 * who.mouth_width, 1.6 + 7 * (who.moustache - 0.8)
        box = canvas.window(-wide - 2, wide + 2, who.nose_length, who.mouth_y + 6)
        t = np.abs(box.x) * (1 / wide)
        middle = who.mouth_y - who.lip_upper - 2.6 + (1.2 - 3.0 * shot.smile) * t * t
        shape = np.abs(box.y - middle) - thick * (1.0 - t * t) * (0.7 + 0.6 * t)
        box.paint(0.9 * edge(np.maximum(shape, (t - 1.0) * wide)), colour)


def marks(canvas: Canvas, who: Person, ink: Colours) -> None:
    """Freckles and a mole, at places that belong to the person."""
    if who.freckles > 0.8:
        box = canvas.window(-27, 27, 9, 28)
        steps = np.arange(18)
        # Roberts' R2 sequence: spread evenly, without the look of a grid
        at_x = (-26 + 52 * ((who.mark_seed * 0.37 + steps * 0.7548777) % 1)).astype(np.float32)
        at_y = (10 + 16 * ((who.mark_seed * 0.71 + steps * 0.5698403) % 1)).astype(np.float32)
        apart = np.square(box.x - at_x[:, None, None]) + np.square(box.y - at_y[:, None, None])
        nearest = np.sqrt(apart.min(axis=0))
        box.paint(0.6 * edge(nearest - 0.7, 0.7), ink.shade * 0.8)
    if who.mole > 0.7:
        x, y = -24 + 48 * ((who.mark_seed * 0.13) % 1), 12 + 34 * ((who.mark_seed * 0.29) % 1)
        box = canvas.window(x - 3, x + 3, y - 3, y + 3)
        box.paint(0.9 * edge(disc(box.x, box.y, x, y, 1.2, 1.2), 0.6), ink.shade * 0.35)
