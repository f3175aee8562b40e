"""From encoded image bytes to uint8 RGB pixels: simplejpeg for JPEG, Pillow for everything else.

Both stand on libjpeg-turbo and give the same pixels; simplejpeg takes half the time and writes straight into
a given buffer. An orientation tag (EXIF) is ignored, as InsightFace and OpenCV's training readers do: faces
were aligned before they were stored.
"""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from topoface.errors import UserError

FACE_SHAPE = (112, 112, 3)
MAX_PIXELS = 64_000_000
_ROWS = 512  # converted together: of a large image Pillow already holds more copies than one likes (of a WebP, four)
# Only these: Pillow knows formats whose reading starts other programs (EPS) or plugins.
_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

Pixels = NDArray[np.uint8]
Encoded = bytes | memoryview


def decode(data: Encoded, where: str) -> Pixels:
    """Decode an image of any size up to 64 megapixels.

    Args:
        data: the whole encoded file: JPEG, PNG, WebP or BMP. Grey, palette, CMYK and 16-bit images are
            converted to 8-bit RGB; an alpha channel is dropped.
        where: names the file or record in errors.

    Returns:
        uint8 RGB ``[H, W, 3]``.

    Raises:
        UserError: truncated, corrupt, of another format, or too large.
    """
    size = _jpeg_size(data, where)
    if size is None:
        return _decode_with_pillow(data, where)
    return _decode_jpeg(data, where, "RGB", np.empty((*size, 3), dtype=np.uint8))


def decode_into(data: Encoded, out: Pixels, where: str, *, mirror: bool = False) -> None:
    """Decode a face of exactly 112 x 112 into ``out``, mirrored left to right if asked.

    Args:
        data: as in ``decode``.
        out: uint8 ``[112, 112, 3]``, C-contiguous; unspecified after an error.
        where: names the file or record in errors.
        mirror: reverse the order of the columns.

    Raises:
        UserError: as ``decode``, or for another size.
    """
    size = _jpeg_size(data, where)
    if size is None:
        store_face(_decode_with_pillow(data, where, face=True), out, where, mirror=mirror)
        return
    _require_face_size(size, where)
    _decode_jpeg(data, where, "BGR" if mirror else "RGB", out)
    if mirror:
        # Reversing all bytes of a line mirrors it and turns BGR into RGB. Done 8 bytes at a time (a byte
        # swap of reversed words) it costs 4 us a face; NumPy's reversed copy of pixels costs 58.
        words = out.reshape(112, 336).view(np.uint64)
        words[...] = words[:, ::-1].byteswap()


def store_face(image: Pixels, out: Pixels, where: str, *, mirror: bool = False) -> None:
    """Copy a decoded 112 x 112 face into ``out``, mirrored if asked; UserError for another size."""
    _require_face_size(image.shape[:2], where)
    out[...] = image[:, ::-1] if mirror else image


def _jpeg_size(data: Encoded, where: str) -> tuple[int, int] | None:
    """Height and width if simplejpeg is the one to decode this, else None."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None  # a rare kind of chroma sampling, or no JPEG at all: Pillow will tell
    if colours in ("CMYK", "YCCK"):
        return None
    _require_sane_size(height, width, where)
    return height, width


def _decode_jpeg(data: Encoded, where: str, colours: str, out: Pixels) -> Pixels:
    """Fill ``out``, which has the size of the image, without shortcuts that change pixels."""
    try:
        simplejpeg.decode_jpeg(data, colours, fastdct=False, fastupsample=False, buffer=out)
    except ValueError as error:
        raise _undecodable(str(error), where) from error
    return out


def _decode_with_pillow(data: Encoded, where: str, *, face: bool = False) -> Pixels:
    """A face of another size is refused before its pixels are read."""
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            _require_sane_size(image.height, image.width, where)
            if face:
                _require_face_size((image.height, image.width), where)
            return _rgb(image)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(str(error), where) from error
    except UnidentifiedImageError as error:
        found = f"starts with {bytes(data[:8])!r}" if len(data) else "is empty"
        raise _undecodable(f"{found}: no intact JPEG, PNG, WebP or BMP", where) from error
    except Exception as error:  # Pillow's parsers raise whatever a stranger's bytes provoke
        raise _undecodable(str(error) or type(error).__name__, where) from error


def _rgb(image: Image.Image) -> Pixels:
    """8-bit RGB ``[H, W, 3]``."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, _ROWS):
        part = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        if part.mode == "P" and "transparency" in part.info:
            part = part.convert("RGBA")
        rgb[top : top + _ROWS] = np.asarray(part.convert("RGB"))
    return rgb


def _require_sane_size(height: int, width: int, where: str) -> None:
    if height * width > MAX_PIXELS:
        raise _too_large(f"{width} x {height} pixels", where)


def _require_face_size(size: tuple[int, ...], where: str) -> None:
    if size != FACE_SHAPE[:2]:
        raise UserError(
            f"the image is {size[1]} x {size[0]} pixels, training needs aligned faces of 112 x 112",
            where,
            "align the faces to the 112 x 112 template first",
        )


def _undecodable(reason: str, where: str) -> UserError:
    return UserError(
        f"cannot be decoded as an image ({reason})",
        where,
        "replace the image by an intact one or remove it",
    )


def _too_large(size: str, where: str) -> UserError:
    return UserError(
        f"image too large ({size}; the limit is {MAX_PIXELS // 10**6} megapixels)",
        where,
        "shrink or remove it",
    )
