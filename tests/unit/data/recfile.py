"""Writes small faces, image folders and InsightFace .rec files for tests, from the format's description."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def face(number: int, side: int = 112) -> NDArray[np.uint8]:
    """A smooth coloured picture, different for each number and not symmetric."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(x * (3 + number % 5) + channel + number) + y * (channel + 1) for channel in range(3)]
    return (127 + 60 * np.stack(waves, axis=-1)).clip(0, 255).astype(np.uint8)


def encoded(image: NDArray[np.uint8], kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def decoded(data: bytes) -> NDArray[np.uint8]:
    """The plain Pillow way, as the tests' reference."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@dataclass
class Record:
    """One record: labels go behind the header if there are several or ``vector`` asks for it."""

    key: int
    label: float | Sequence[float]
    image: bytes = b""

    def payload(self) -> bytes:
        if isinstance(self.label, Sequence):
            values = struct.pack(f"<{len(self.label)}f", *self.label)
            return struct.pack("<IfQQ", len(self.label), 0.0, self.key, 0) + values + self.image
        return struct.pack("<IfQQ", 0, self.label, self.key, 0) + self.image


def part(payload: bytes, kind: int = 0) -> bytes:
    return MAGIC + struct.pack("<I", kind << 29 | len(payload)) + payload + bytes(-len(payload) % 4)


def stored(payload: bytes) -> bytes:
    """As dmlc's writer does it: split wherever the magic stands at a multiple of 4."""
    pieces, start = [], 0
    for at in range(0, len(payload) - 3, 4):
        if payload[at : at + 4] == MAGIC:
            pieces.append(payload[start:at])
            start = at + 4
    pieces.append(payload[start:])
    if len(pieces) == 1:
        return part(payload)
    kinds = [1] + [2] * (len(pieces) - 2) + [3]
    return b"".join(part(piece, kind) for piece, kind in zip(pieces, kinds, strict=True))


def write_rec(
    folder: Path,
    records: Sequence[Record],
    *,
    name: str = "train",
    declared: object = None,
    reverse: bool = False,
) -> Path:
    """Write ``name``.rec, .idx and, if ``declared`` is given, a property file. Returns the path of the .rec."""
    folder.mkdir(parents=True, exist_ok=True)
    body, lines = b"", []
    for record in records:
        lines.append(f"{record.key}\t{len(body)}\n")
        body += stored(record.payload())
    path = folder / f"{name}.rec"
    path.write_bytes(body)
    path.with_suffix(".idx").write_text("".join(lines[::-1] if reverse else lines))
    if declared is not None:
        (folder / "property").write_text(f"{declared},112,112")
    return path


def plain_records(identities: int = 3, images: int = 4) -> list[Record]:
    """Every key is an image."""
    return [Record(n, n // images, encoded(face(n))) for n in range(identities * images)]


def listed_records(identities: int = 3, images: int = 4) -> list[Record]:
    """Record 0 is a header, images are keys 1 .. n, then a record of key ranges for each identity."""
    n = identities * images
    header = Record(0, [n + 1, n + 1 + identities])
    faces = [Record(1 + i, i // images, encoded(face(i))) for i in range(n)]
    ranges = [Record(n + 1 + c, [1 + c * images, 1 + (c + 1) * images]) for c in range(identities)]
    return [header, *faces, *ranges]


def write_folder(folder: Path, identities: int = 3, images: int = 4) -> Path:
    for n in range(identities * images):
        path = folder / f"person_{n // images}" / f"{n % images}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(face(n)))
    return folder
