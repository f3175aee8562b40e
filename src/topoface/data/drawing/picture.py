"""One picture of a person: the scene behind, what hides parts of the face, the light, and the camera."""

import math

import numpy as np
from numpy.typing import NDArray

from topoface.data.drawing import face, hair
from topoface.data.drawing.canvas import CENTRE_Y, RADIUS_X, RADIUS_Y, SIZE, Canvas, Plane, clamp, disc, edge
from topoface.data.drawing.traits import CLOTH, Colour, Colours, Person, Shot, mix


def picture(who: Person, shot: Shot, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture, uint8 RGB [112, 112, 3]; ``rng`` gives the scene's colours and the camera's noise."""
    ink = Colours.of(who)
    canvas = Canvas(who, shot)
    background(canvas, rng)
    cloth = mix(CLOTH, rng.random())
    locks = hair.Hair(canvas, who, shot, ink)
    locks.behind(canvas)
    body = canvas.window(-75, 75, 44, 90)
    body.paint(edge(disc(body.x, body.y, 0.0, 92.0, 66.0, 42.0), 1.0), cloth)
    face.head(canvas, who, ink)
    hair.beard(canvas, who, shot, ink)
    for side in (-1.0, 1.0):
        face.eye(canvas, who, shot, ink, side)
        face.brow(canvas, who, shot, ink, side)
    face.mouth(canvas, who, shot, ink)
    face.nose(canvas, who, shot, ink)
    hair.marks(canvas, who, ink)
    locks.before()
    if shot.glasses < 0.2:
        glasses(canvas, who, shot)
    cover(canvas, who, shot, cloth)
    light(canvas, shot)
    return camera(canvas.pixels, shot, rng)


def background(canvas: Canvas, rng: np.random.Generator) -> None:
    """A soft gradient between two colours with two blurred things in it."""
    steps = np.linspace(-1, 1, SIZE, dtype=np.float32)
    across, down = steps[None, :], steps[:, None]
    draw = rng.random(20).astype(np.float32)
    grey = np.repeat(draw[0:4, None], 3, axis=1)
    colours = 255 * (0.08 + 0.84 * (0.55 * grey + 0.45 * draw[4:16].reshape(4, 3)))
    slant = 0.5 + 0.5 * ((2 * draw[16] - 1) * across + (2 * draw[17] - 1) * down)
    canvas.pixels[:] = colours[0][:, None, None] + slant * (colours[1] - colours[0])[:, None, None]
    for colour, x, y in zip(colours[2:], 2 * draw[16:18] - 1, 2 * draw[18:20] - 1, strict=True):
        canvas.paint(0.8 * clamp(1.2 - 2.2 * (np.square(across - x) + np.square(down - y)), 0, 1), colour)


def glasses(canvas: Canvas, who: Person, shot: Shot) -> None:
    """A pair of glasses, round to square, thin to thick, clear to dark."""
    radius, thick = 10.5 + 4 * shot.glasses_shape, 0.6 + 6 * shot.glasses
    squareness = (7 * shot.glasses_shape) % 1
    box = canvas.window(-who.head_width, who.head_width, -radius - 2, radius + 4)
    u, v = np.square((np.abs(box.x) - who.eye_x) * (1 / radius)), np.square((box.y - 1) * (1.12 / radius))
    rim = (np.sqrt(u + v - 0.9 * squareness * np.minimum(u * v, 1.0)) - 1.0) * radius
    dark = 0.8 if shot.glasses < 0.035 else 0.1
    frame = mix(CLOTH, (13 * shot.glasses_shape) % 1) * 0.55
    box.paint(dark * edge(rim), np.array([28, 28, 34] if dark > 0.5 else [225, 235, 245], np.float32))
    arms = np.maximum(np.maximum(np.abs(box.y + 2.0) - thick, -rim), np.abs(box.x) - who.head_width)
    box.paint(edge(np.minimum(np.abs(rim) - thick, arms)), frame)


def cover(canvas: Canvas, who: Person, shot: Shot, cloth: Colour) -> None:
    """In about three pictures of ten: a hat, a scarf, a mask, or something held before the camera."""
    which = shot.cover
    if which < 0.11:  # hat
        box = canvas.window(-who.head_width - 6, who.head_width + 6, -who.crown - 12, -10)
        shape = (face.skull(who, box.x, box.y, 3.0, 7.0) - 1.0) * 46
        brim = -21.0 - 3 * shot.cover_y + 0.004 * np.square(box.x)
        knit = 1.0 + 0.1 * np.sin(1.6 * box.x)
        box.paint(edge(np.maximum(shape, box.y - brim)), cloth[:, None, None] * knit)
        fold = np.maximum(shape - 1.0, np.abs(box.y - brim + 4.0) - 4.5)
        box.paint(edge(fold), cloth * 0.8)
    elif which < 0.17:  # scarf
        box = canvas.window(-70, 70, 20, 80)
        top = who.mouth_y + 2 + 7 * shot.cover_y - 0.004 * np.square(box.x) + 2 * np.sin(0.12 * box.x)
        wool = 1.0 + 0.12 * np.sin(0.5 * box.y + 0.25 * box.x)
        box.paint(edge(top - box.y), cloth[:, None, None] * wool)
    elif which < 0.22:  # mask
        box = canvas.window(-who.head_width, who.head_width, 4, 64)
        shape = np.maximum(
            (face.skull(who, box.x, box.y) - 1.0) * 42, 11.0 - box.y + 0.006 * np.square(box.x)
        )
        paper = np.array([198, 222, 232], np.float32) + 25 * shot.cover_x
        pleats = 1.0 - 0.1 * edge(np.abs((box.y * 0.11) % 1 - 0.5) - 0.06, 0.03)
        box.paint(edge(shape), paper[:, None, None] * pleats)
    elif which < 0.30:  # something before the camera
        at_x, at_y = 34 * shot.cover_x, 12 + 34 * shot.cover_y
        wide, tall = 7 + 130 * (which - 0.22), 16 - 100 * (which - 0.22)
        box = canvas.window(at_x - wide - 2, at_x + wide + 2, at_y - tall - 2, at_y + tall + 2)
        sides = np.maximum(np.abs(box.x - at_x) - wide, np.abs(box.y - at_y) - tall)
        box.paint(edge(sides, 1.5), cloth)


def light(canvas: Canvas, shot: Shot) -> None:
    """Ambient light with a colour of its own and one lamp that the dome of the head turns towards or away from."""
    towards: Plane = clamp(canvas.x * (math.cos(shot.light_angle) / RADIUS_X), -1.0, 1.0)
    towards += clamp((canvas.y - CENTRE_Y) * (math.sin(shot.light_angle) / RADIUS_Y), -1.0, 1.0)
    metered = 122.0 / (20.0 + float(canvas.pixels[1].mean()))  # cameras expose dark scenes longer
    ambient = np.array([1 + shot.warmth, 1 + shot.tint, 1 - shot.warmth], np.float32)
    ambient *= shot.exposure * metered**0.7
    lamp = shot.light_strength * ambient
    lamp *= np.array([1 + shot.light_warmth, 1.0, 1 - shot.light_warmth], np.float32)
    for plane, base, beam in zip(canvas.pixels, ambient, lamp, strict=True):
        plane *= base + beam * towards


def camera(pixels: Plane, shot: Shot, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Saturation, contrast, blur and noise; then 8 bits."""
    left = shot.blur
    while left > 0:
        share = 0.25 * min(left, 1.0)
        pixels[:, 1:-1] += share * (pixels[:, :-2] + pixels[:, 2:] - 2 * pixels[:, 1:-1])
        pixels[:, :, 1:-1] += share * (pixels[:, :, :-2] + pixels[:, :, 2:] - 2 * pixels[:, :, 1:-1])
        left -= 1.0
    grey = 0.3 * pixels[0] + 0.59 * pixels[1] + 0.11 * pixels[2]
    level = (1.0 - shot.contrast) * float(grey.mean())
    grey *= shot.contrast * (1.0 - shot.saturation)
    grey += level
    grey += shot.noise * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    developed = np.empty((SIZE, SIZE, 3), np.uint8)
    for channel, plane in enumerate(pixels):
        plane *= shot.contrast * shot.saturation
        plane += grey
        plane -= 0.6 * np.maximum(plane - 195.0, 0.0)  # a film's shoulder: bright skin keeps its features
        developed[:, :, channel] = clamp(plane, 0.0, 255.0)
    return developed
