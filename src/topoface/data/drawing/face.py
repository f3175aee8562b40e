"""The parts of a face: head, eyes, brows, nose and mouth."""

import math

import numpy as np

from topoface.data.drawing.canvas import NOSE_OUT, Canvas, Plane, clamp, disc, edge
from topoface.data.drawing.traits import Colours, Person, Shot


def skull(who: Person, x: Plane, y: Plane, side: float = 0.0, top: float = 0.0) -> Plane:
    """Radius of each point relative to the head's outline (1 on it), grown by ``side`` and ``top`` pixels."""
    middle = 4.0  # where the head is widest
    up = np.minimum(y - middle, 0.0) * (1 / (who.crown + top + middle))
    down = np.maximum(y - middle, 0.0) * (1 / (who.chin + side - middle))
    width = 1.0 - who.jaw_taper * down * down + (0.22 * who.cheek) * down * (1.0 - down) * (1.0 - down)
    np.maximum(width, 0.5, out=width)
    u = x * (1 / (who.head_width + side)) / width
    u *= u
    down *= down
    # a squircle below (Fernandez-Guasti); far outside, its product would win over the sum
    corner = who.jaw_square * np.minimum(u * down, 1.0)
    radius: Plane = np.sqrt(u + up * up + down - corner)
    return radius


def head(canvas: Canvas, who: Person, ink: Colours) -> None:
    """Neck, ears and the skin of the face with its soft shadows."""
    neck = canvas.window(-32, 32, 34, 75)
    neck.paint(edge(np.abs(neck.x) - 0.52 * who.head_width), ink.shade)
    for side in (-1.0, 1.0):
        at = side * (who.head_width + who.ear_out - 0.5)
        ear = canvas.window(at - 8, at + 8, who.ear_y - 13, who.ear_y + 13)
        ear.paint(edge(disc(ear.x, ear.y, at, who.ear_y, 0.5 * who.ear_size, who.ear_size)), ink.skin)
        inner = disc(ear.x, ear.y, at + side * 0.5, who.ear_y - 0.5, 0.26 * who.ear_size, 0.62 * who.ear_size)
        ear.paint(0.8 * edge(inner, 1.2), ink.shade)
    face = canvas.window(-who.head_width - 3, who.head_width + 3, -who.crown - 3, who.chin + 3)
    radius = skull(who, face.x, face.y)
    inside = edge((radius - 1.0) * 42)
    rim = clamp((radius - 0.66) * (1 / 0.34), 0.0, 1.0)
    face.paint(inside, ink.skin)
    face.paint(0.55 * rim * rim * inside, ink.shade)
    for at_x, at_y, wide, tall, soft, much, colour in (
        (0.0, -24.0, 16.0, 7.0, 9.0, 0.35, ink.glow),
        (-who.eye_x - 3, 22.0, 7.0, 5.0, 5.0, 0.30, ink.lips),
        (who.eye_x + 3, 22.0, 7.0, 5.0, 5.0, 0.30, ink.lips),
        (-who.eye_x - 1, 15.0, 6.0, 2.5, 4.0, 0.30 * who.cheek + 0.1, ink.glow),
        (who.eye_x + 1, 15.0, 6.0, 2.5, 4.0, 0.30 * who.cheek + 0.1, ink.glow),
        (0.0, who.chin - 8, 5.0, 3.0, 4.0, 0.30, ink.glow),
        (0.0, who.mouth_y + who.lip_lower + 4.2, 6.0, 1.4, 3.0, 0.30, ink.shade),
    ):
        spot = canvas.window(at_x - wide - soft, at_x + wide + soft, at_y - tall - soft, at_y + tall + soft)
        spot.paint(much * edge(disc(spot.x, spot.y, at_x, at_y, wide, tall), soft), colour)


def eye(canvas: Canvas, who: Person, shot: Shot, ink: Colours, side: float) -> None:
    """One eye with lids, lashes, iris and brow; ``side`` is -1 (left in the picture) or 1."""
    wide = who.eye_width
    box = canvas.window(side * who.eye_x - wide - 5, side * who.eye_x + wide + 5, -who.eye_height - 9, 10)
    out = side * box.x - who.eye_x
    dy = box.y + who.eye_tilt * out
    t = out * (1 / wide)
    arc = 1.0 - t * t
    upper = arc * (1.0 + who.eye_peak * t) * (-who.eye_height * shot.eye_open)
    lower = arc * (who.eye_height * who.eye_lower)
    ends = (np.abs(t) - 1.0) * wide
    box.paint(0.55 * edge(disc(out, dy, 0.0, -2.0, wide, 4.5), 4.5), ink.shade)
    inside = edge(np.maximum(upper - dy, dy - lower), 0.7)
    box.paint(inside, np.array([247, 244, 241], np.float32))
    look_x, look_y = out - side * 0.22 * wide * shot.gaze_x, box.y - 0.8 * shot.gaze_y + 0.3
    from_centre = np.sqrt(look_x * look_x + look_y * look_y)
    rim = clamp((who.iris_size - from_centre) * 0.8, 0.35, 1.0) * (1.0 + 0.09 * look_y)
    box.paint(inside * edge(from_centre - who.iris_size, 0.7), ink.iris[:, None, None] * rim)
    box.paint(inside * edge(from_centre - 0.47 * who.iris_size, 0.6), np.array([16, 12, 12], np.float32))
    box.paint(0.35 * inside * edge(dy - upper - 1.4, 1.2), ink.shade * 0.4)  # the lid's shadow
    glint = edge(disc(look_x, look_y, -side * 1.2, -1.3, 1.05, 1.05), 0.6)
    box.paint(inside * glint, np.array([255, 255, 255], np.float32))
    lash = np.abs(dy - upper) - who.lash * (0.7 + 0.45 * t)
    box.paint(edge(np.maximum(lash, ends - 0.8)), ink.shade * 0.22)
    box.paint(0.5 * edge(np.maximum(np.abs(dy - lower) - 0.25, ends)), ink.shade * 0.55)
    if who.fold > 1.0:
        crease = np.abs(dy - upper + who.fold) - 0.3
        box.paint(0.7 * edge(np.maximum(crease, ends + 0.6)), ink.shade * 0.6)


def brow(canvas: Canvas, who: Person, shot: Shot, ink: Colours, side: float) -> None:
    """One eyebrow."""
    wide, centre = who.brow_width, who.eye_x + 0.5 * who.brow_gap
    height = who.brow_y + shot.brow_raise
    box = canvas.window(
        side * centre - wide - 2, side * centre + wide + 2, -height - who.brow_arch - 6, 6 - height
    )
    out = side * box.x - centre
    t = out * (1 / wide)
    t2 = t * t
    middle = (1.0 - t2) * -who.brow_arch - (who.brow_slope + shot.frown) * out - height + 0.5 * who.brow_arch
    thick = who.brow_thick * (1.0 - 0.4 * t) * (1.0 - t2 * t2)
    hairs = 0.93 + 0.07 * np.sin(out * 1.9 + box.y)
    box.paint(hairs * edge(np.abs(box.y - middle) - thick), 0.7 * ink.hair + 0.12 * ink.shade)


def nose(canvas: Canvas, who: Person, shot: Shot, ink: Colours) -> None:
    """The nose, which stands out of the face and so moves further than it when the head turns."""
    tip, wide = who.nose_length, who.nose_width
    box = canvas.window(-wide - 10, wide + 10, -8, tip + 10)
    ramp = clamp(box.y * (1 / tip), 0.0, 1.0)
    x = box.x - NOSE_OUT * math.tan(shot.yaw) * ramp
    y = box.y - NOSE_OUT * math.tan(shot.pitch) * ramp
    half = who.nose_bridge * (0.75 + 0.6 * ramp * ramp)
    along = edge(np.maximum(-4.0 - y, y - tip + 1.0), 3.0)
    far = clamp(0.5 + np.sign(x) * (1.5 * math.sin(shot.yaw)), 0.1, 1.0)
    box.paint(0.6 * far * along * edge(np.abs(np.abs(x) - half - 0.6) - 0.3, 1.5), ink.shade)
    box.paint(0.5 * along * edge(np.abs(x) - 0.5 * half, 1.6), ink.glow)
    below = edge(disc(x, y, 0.0, tip + 2.6, 0.85 * wide, 2.4), 2.2)
    box.paint(0.75 * below, ink.shade * 0.92)
    for side in (-1.0, 1.0):
        wing = disc(x, y, side * (wide - 2.3), tip + 0.4, 2.5, 2.7)
        box.paint(0.65 * edge(np.abs(wing) - 0.2, 0.9) * (side * x > wide - 2.6), ink.shade * 0.8)
        hole = disc(
            x,
            y,
            side * 0.48 * wide,
            tip + 2.3 - 0.3 * who.nose_up,
            0.2 * wide + 0.5,
            1.0 + 0.35 * who.nose_up,
        )
        box.paint(0.85 * edge(hole), ink.shade * 0.38)
    ball = disc(x, y, 0.0, tip - 0.9, who.nose_tip, 0.85 * who.nose_tip)
    box.paint(0.75 * edge(ball, 1.6), ink.skin)
    box.paint(
        0.6 * edge(disc(x, y, -0.6, tip - 2.0, 0.45 * who.nose_tip, 0.35 * who.nose_tip), 1.5), ink.glow
    )


def mouth(canvas: Canvas, who: Person, shot: Shot, ink: Colours) -> None:
    """Lips, and teeth and tongue where the mouth is open."""
    wide = who.mouth_width * (1.0 + 0.1 * max(shot.smile, -0.3))
    gap = 5.5 * max(shot.opening, 0.0)
    box = canvas.window(-wide - 3, wide + 3, who.mouth_y - 9, who.mouth_y + gap + 10)
    t = box.x * (1 / wide)
    t2 = t * t
    arc = 1.0 - t2
    y = box.y - who.mouth_y + 0.35 * gap
    line = (who.lip_corner + 5.2 * shot.smile) * (0.45 - t2)
    notch = who.lip_bow * (0.9 * np.exp(-55 * t2) - 0.55 * np.exp(-18 * np.square(np.abs(t) - 0.24)))
    top = line - who.lip_upper * arc * (1.0 - 0.4 * t2) + notch
    bottom = line + gap * arc + who.lip_lower * (1.0 - 0.25 * max(shot.smile, 0.0)) * arc
    box.paint(edge(np.maximum(top - y, y - bottom), 0.8), ink.lips)
    box.paint(0.2 * edge(np.maximum(top - y, y - line), 0.8), ink.shade * 0.5)
    shine = disc(box.x, y, 0.0, gap + 0.5 * who.lip_lower, 0.4 * wide, 0.22 * who.lip_lower)
    box.paint(0.28 * edge(shine, 1.4), ink.glow)
    if gap > 0.4:
        low = line + gap * arc
        hollow = edge(np.maximum(line - y, y - low), 0.7)
        box.paint(hollow, np.array([70, 22, 26], np.float32))
        box.paint(
            hollow * edge(disc(box.x, y, 0.0, gap + 1.0, 0.5 * wide, 0.45 * gap), 1.0),
            np.array([190, 84, 86], np.float32),
        )
        box.paint(hollow * edge(y - line - 0.42 * gap - 0.6, 0.7), np.array([244, 240, 232], np.float32))
    crack = np.abs(y - line) - 0.35
    box.paint(0.75 * edge(np.maximum(crack, (np.abs(t) - 1.0) * wide)), ink.lips * 0.42)
    for side in (-1.0, 1.0):  # dimples at the corners
        box.paint(
            0.5
            * edge(
                disc(box.x, y, side * (wide + 0.4), -0.5 * (who.lip_corner + 5.2 * shot.smile), 0.9, 1.3), 1.0
            ),
            ink.shade * 0.7,
        )
