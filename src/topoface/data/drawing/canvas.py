"""The canvas: soft-edged shapes in coordinates of the frontal face, which the pose has bent over the head."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.data.drawing.traits import Colour, Person, Shot

SIZE = 112
Plane = NDArray[np.floating[Any]]  # float32 throughout: twice as fast; NumPy's stubs lose track of it

# Where five landmarks of an aligned face lie (x + iy pixels): the template of ArcFace (arXiv:1801.07698).
TEMPLATE = np.array(
    [38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j, 70.7299 + 92.2041j]
)
DEPTH, RADIUS_X, RADIUS_Y, CENTRE_Y = 26.0, 46.0, 62.0, 14.0  # the dome that the frontal face is bent over
FLOOR = -0.4  # height, in depths, where the dome ends in a plane: steeper, a turn would fold it over itself
NOSE_OUT = 9.0  # how far the tip of the nose stands out of it


def clamp(plane: Plane, low: float, high: float) -> Plane:
    """``plane`` itself, limited to [low, high]; ``np.clip`` spends longer on its arguments than on a small shape."""
    np.maximum(plane, low, out=plane)
    return np.minimum(plane, high, out=plane)


def edge(distance: Plane, soft: float = 0.8) -> Plane:
    """Coverage in [0, 1] of a shape from its signed distance (negative inside), over ``2 * soft`` pixels."""
    cover = distance * (-0.5 / soft)
    cover += 0.5
    return clamp(cover, 0.0, 1.0)


def disc(x: Plane, y: Plane, at_x: float, at_y: float, radius_x: float, radius_y: float) -> Plane:
    """Signed distance (to first order) to an ellipse."""
    u, v = (x - at_x) * (1 / radius_x), (y - at_y) * (1 / radius_y)
    u *= u
    v *= v
    u += v
    np.sqrt(u, out=u)
    u -= 1.0
    u *= min(radius_x, radius_y)
    return u


class Window:
    """A rectangle of the picture: its pixels ``[3, h, w]`` and the frontal face coordinates ``x, y`` of each."""

    def __init__(self, pixels: Plane, x: Plane, y: Plane) -> None:
        self.pixels, self.x, self.y = pixels, x, y

    def paint(self, cover: Plane, colour: Colour) -> None:
        """Lay ``colour`` ([3] or [3, h, w]) over the pixels where ``cover`` says so."""
        ink = colour[:, None, None] if colour.ndim == 1 else colour
        change = ink - self.pixels
        change *= cover
        self.pixels += change


class Canvas(Window):
    """The whole picture, aligned to the template as a real pipeline would align it, but for the shot's error."""

    def __init__(self, who: Person, shot: Shot) -> None:
        self._yaw = math.cos(shot.yaw), math.sin(shot.yaw)
        self._pitch = math.cos(shot.pitch), math.sin(shot.pitch)
        marks = (
            self._turned(-who.eye_x, 0.0),
            self._turned(who.eye_x, 0.0),
            self._turned(0.0, who.nose_length, NOSE_OUT),
            self._turned(-who.mouth_width, who.mouth_y),
            self._turned(who.mouth_width, who.mouth_y),
        )
        seen = np.array(marks)
        centred = seen - seen.mean()
        # least squares over turn, scale and shift, as an aligner does (Umeyama without reflection)
        fit = complex(np.vdot(centred, TEMPLATE) / np.vdot(centred, centred).real)
        self._scale = fit * shot.zoom * complex(math.cos(shot.turn), math.sin(shot.turn))
        self._from = complex(seen.mean())
        self._to = complex(TEMPLATE.mean()) + complex(shot.shift_x, shot.shift_y)
        super().__init__(np.empty((3, SIZE, SIZE), np.float32), *self._bent())

    def _turned(self, x: float, y: float, out: float = 0.0) -> complex:
        """Where a point of the face is seen: turned by yaw and pitch, ``out`` pixels above the dome."""
        bend = (x / RADIUS_X) ** 2 + ((y - CENTRE_Y) / RADIUS_Y) ** 2
        z = DEPTH * max(1.0 - bend, FLOOR) + out
        return complex(x * self._yaw[0] + z * self._yaw[1], y * self._pitch[0] + z * self._pitch[1])

    def _bent(self) -> tuple[Plane, Plane]:
        """The point of the frontal face that each pixel shows: the inverse of alignment and turn."""
        inverse = 1 / self._scale
        start = self._from - inverse * self._to
        steps = np.arange(SIZE, dtype=np.float32)
        column, row = steps[None, :], steps[:, None]
        seen_x = inverse.real * column - inverse.imag * row + start.real
        seen_y = inverse.imag * column + inverse.real * row + start.imag
        (cos_x, sin_x), (cos_y, sin_y) = self._yaw, self._pitch
        seen_x *= 1 / cos_x
        seen_y *= 1 / cos_y
        x, y = seen_x, seen_y
        for _ in range(4):  # a contraction, as long as no slope of the dome turns away from the viewer
            z = 1.0 - np.square(x * (1 / RADIUS_X)) - np.square((y - CENTRE_Y) * (1 / RADIUS_Y))
            np.maximum(z, FLOOR, out=z)
            x = seen_x - z * (DEPTH * sin_x / cos_x)
            y = seen_y - z * (DEPTH * sin_y / cos_y)
        return x, y

    def window(self, left: float, right: float, top: float, bottom: float) -> Window:
        """The pixels that show this rectangle of the frontal face, and two more on each side."""
        # the dome may show its highest point further out than its corners
        across = (left, 0.0, right) if left < 0.0 < right else (left, right)
        down = (top, CENTRE_Y, bottom) if top < CENTRE_Y < bottom else (top, bottom)
        corners = [self._turned(x, y) for x in across for y in down]
        seen = [(each - self._from) * self._scale + self._to for each in corners]
        seen_x, seen_y = [each.real for each in seen], [each.imag for each in seen]
        columns = slice(max(int(min(seen_x)) - 2, 0), max(int(max(seen_x)) + 3, 0))
        rows = slice(max(int(min(seen_y)) - 2, 0), max(int(max(seen_y)) + 3, 0))
        if columns.stop - columns.start > SIZE // 2:
            columns = slice(None)  # whole rows lie together in memory: more pixels, less time
        return Window(self.pixels[:, rows, columns], self.x[rows, columns], self.y[rows, columns])
