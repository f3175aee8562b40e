"""Decoding: the pixels are Pillow's, and nothing unreadable comes back as pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.recfile import decoded, encoded, face
from topoface.data.decode import FACE_SHAPE, decode, decode_into
from topoface.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, FACE_SHAPE, dtype=np.uint8)

JPEGS = {
    "4:2:0": encoded(face(1)),
    "4:4:4": encoded(face(1), subsampling=0),
    "4:2:2": encoded(face(1), subsampling=1),
    "noise": encoded(NOISE, quality=30),
    "progressive": encoded(face(2), progressive=True),
    "stored as RGB": encoded(face(3), keep_rgb=True),
    "grey": encoded(face(4)[..., 0]),
}
OTHERS = {
    "png": encoded(face(5), "PNG"),
    "webp": encoded(face(5), "WEBP", lossless=True),
    "bmp": encoded(face(5), "BMP"),
    "grey png": encoded(face(5)[..., 0], "PNG"),
}


@pytest.mark.parametrize("data", [*JPEGS.values(), *OTHERS.values()], ids=[*JPEGS, *OTHERS])
def test_pixels_are_bit_for_bit_those_of_pillow(data: bytes) -> None:
    out = np.empty(FACE_SHAPE, dtype=np.uint8)
    decode_into(data, out, "x")
    assert np.array_equal(out, decoded(data))
    assert np.array_equal(decode(memoryview(data), "x"), decoded(data))


@pytest.mark.parametrize("data", [*JPEGS.values(), *OTHERS.values()], ids=[*JPEGS, *OTHERS])
def test_mirrored_is_the_reverse_of_the_columns(data: bytes) -> None:
    out = np.empty(FACE_SHAPE, dtype=np.uint8)
    decode_into(data, out, "x", mirror=True)
    assert np.array_equal(out, decoded(data)[:, ::-1])


def test_writes_into_a_row_of_a_batch_and_nowhere_else() -> None:
    batch = np.full((3, *FACE_SHAPE), 7, dtype=np.uint8)
    decode_into(JPEGS["4:2:0"], batch[1], "x", mirror=True)
    assert (batch[[0, 2]] == 7).all()
    assert np.array_equal(batch[1], decoded(JPEGS["4:2:0"])[:, ::-1])


def test_decode_takes_any_size() -> None:
    data = encoded(face(1)[:50, :70].copy())
    assert decode(data, "x").shape == (50, 70, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_tall_images_are_those_of_pillow_whole(mode: str) -> None:
    """They are converted some rows at a time."""
    tall = np.random.default_rng(1).integers(0, 256, (1300, 9, 4), dtype=np.uint8)
    image = Image.fromarray(tall, "RGBA").convert(mode)
    data = io.BytesIO()
    image.save(data, "png", **({"transparency": 3} if mode == "P" else {}))
    np.testing.assert_array_equal(decode(data.getvalue(), "tall"), np.array(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_face_of_another_size_is_refused_with_its_size(kind: str) -> None:
    data = encoded(face(1)[:50, :70].copy(), kind)
    with pytest.raises(UserError, match=r"^a\.jpg: the image is 70 x 50 pixels.*; align"):
        decode_into(data, np.empty(FACE_SHAPE, dtype=np.uint8), "a.jpg")


def test_cmyk_becomes_the_colours_pillow_shows(tmp_path) -> None:
    Image.fromarray(face(1)).convert("CMYK").save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    assert np.array_equal(decode(data, "x"), decoded(data))


def test_16_bit_grey_keeps_its_upper_byte() -> None:
    grey = np.arange(112 * 112, dtype=np.uint16).reshape(112, 112) * 5
    image = decode(encoded(grey, "PNG"), "x")
    assert np.array_equal(image, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_alpha_and_palette_are_dropped(tmp_path) -> None:
    alpha = np.dstack([face(1), np.full((112, 112), 9, dtype=np.uint8)])
    assert np.array_equal(decode(encoded(alpha, "PNG"), "x"), face(1))
    palette = Image.fromarray(face(1)).quantize(16)
    colours = np.asarray(palette.convert("RGB"))
    palette.info["transparency"] = bytes(range(16))
    palette.save(tmp_path / "a.png")
    assert np.array_equal(decode((tmp_path / "a.png").read_bytes(), "x"), colours)


def test_the_orientation_tag_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(decode(encoded(face(1), exif=exif), "x"), decode(JPEGS["4:2:0"], "x"))


JPEG, PNG = JPEGS["4:2:0"], OTHERS["png"]
SOF = JPEG.index(b"\xff\xc0")  # then 3 bytes, height and width
HUGE = b"IHDR" + struct.pack(">II", 2**16, 2**16) + PNG[24:29]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello world", "starts with b'hello wo'"),
        (JPEG[: len(JPEG) // 2], "Premature end"),
        (JPEG[:-2], "Premature end"),
        (JPEG[:3], "starts with"),
        (PNG[: len(PNG) // 2], "truncated"),
        (encoded(face(1), "GIF"), "no intact JPEG, PNG, WebP or BMP"),
        (JPEG[: SOF + 5] + b"\xff\xdc\xff\xdc" + JPEG[SOF + 9 :], "too large .*64 megapixels"),
        (PNG[:12] + HUGE + struct.pack(">I", zlib.crc32(HUGE)) + PNG[33:], "too large"),
    ],
    ids=["empty", "text", "half a jpeg", "no end", "3 bytes", "half a png", "gif", "jpeg bomb", "png bomb"],
)
def test_what_is_no_intact_image_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=rf"^b\.jpg: .*{message}"):
        decode(data, "b.jpg")
    with pytest.raises(UserError, match=r"^b\.jpg: "):
        decode_into(data, np.empty(FACE_SHAPE, dtype=np.uint8), "b.jpg")
