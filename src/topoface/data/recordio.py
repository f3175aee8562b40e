"""InsightFace RecordIO (a .rec file, its .idx, perhaps ``property``), memory-mapped, in pure Python.

At each offset that the .idx lists (``key<TAB>offset``), little endian: uint32 magic, uint32 with the length in its low 29 bits
and the part kind in its top 3 (0 whole; 1 first, 2 middle, 3 last part of a payload that contained the
magic itself, which was cut out there), the payload, zeros up to a multiple of 4. The payload of an image: ``<IfQQ``
(flag, label, id, id2), then ``flag`` float32 labels, of which the first counts, then the encoded image.

Two styles: every key is an image; or record 0 is a header with flag 2 and no image, whose two labels are the first
and the end key of identity records (index ranges, not needed here), so that the images are keys 1 to first - 1.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import Encoded, Pixels, decode, decode_into
from topoface.data.source import Source, content_hash, spread
from topoface.errors import UserError

MAGIC = 0xCED7230A
MAX_IDENTITIES = 2**24  # float32 labels cannot tell larger whole numbers apart
_PART = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_SHORTEST = _PART.size + _HEADER.size
_HASHED_RECORDS = 4096
_LABEL_CHUNK = 65536
_COPY_AGAIN = "the file is damaged or was not copied completely: copy it again, with its .idx"


class RecordSource(Source):
    """The images of a .rec file in ascending order of their keys.

    The number of identities is the first field of the ``property`` file where ``train.rec`` has one beside it,
    otherwise the largest label + 1.

    Args:
        path: the .rec file; the .idx of the same name lies beside it.
        uri: how the user named it, if not by ``path``.

    Raises:
        UserError: a file is missing, empty, or not what its name says. Records are checked when they are
            read, all their headers at once when ``labels`` is first asked for.
    """

    def __init__(self, path: Path, uri: str | None = None) -> None:
        self.uri = uri or str(path)
        self._path = path
        self._bytes = _map(path)
        self._view = self._bytes.data
        self._declared = (
            _declared_identities(path.with_name("property")) if path.name == "train.rec" else None
        )
        self._keys, self._offsets = _read_index(path.with_suffix(".idx"))
        self._select_images()

    @property
    def identities(self) -> int:
        """From ``property``, else the largest label + 1."""
        return self._declared or int(self.labels.max()) + 1

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[len(self)]``: one pass over all record headers, which also checks them.

        Plain records are read in bulk; whatever is not plain goes through the same careful
        parser as a single read, which knows how to name what is wrong.
        """
        labels = np.empty(len(self), dtype=np.int64)
        words = self._bytes[: len(self._bytes) // 4 * 4].view("<u4")
        limit = self._declared or MAX_IDENTITIES
        for start in range(0, len(self), _LABEL_CHUNK):
            offsets = self._offsets[start : start + _LABEL_CHUNK]
            fits = (offsets % 4 == 0) & (offsets <= len(self._bytes) - _SHORTEST)
            head = words[np.where(fits, offsets // 4, 0)[:, None] + np.arange(4)]
            magic, length, flag, value = (
                head[:, 0],
                head[:, 1].astype(np.int64),
                head[:, 2],
                head[:, 3].view("<f4"),
            )
            whole = (
                (length < 2**29)
                & (length >= _HEADER.size)
                & (length <= len(self._bytes) - _PART.size - offsets)
            )
            with np.errstate(invalid="ignore"):
                sound = (value >= 0) & (value < limit) & (value == np.floor(value))
            plain = fits & (magic == MAGIC) & whole & (flag == 0) & sound
            labels[start : start + len(offsets)] = np.where(plain, value, 0)
            for i in (start + np.flatnonzero(~plain)).tolist():
                labels[i] = self._parse(i)[0]
        labels.flags.writeable = False
        return labels

    @cached_property
    def names(self) -> Sequence[str]:
        """The label itself, in decimal digits: the file knows no other name."""
        return [str(label) for label in range(self.identities)]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: int) -> tuple[Pixels, int]:
        """Image uint8 RGB ``[H, W, 3]`` and label; UserError naming the record if it is unreadable."""
        i = range(len(self))[i]
        label, image = self._parse(i)
        return decode(image, self.describe(i)), label

    def read_into(self, i: int, out: Pixels, *, mirror: bool = False) -> None:
        """See ``Source.read_into``."""
        decode_into(self._parse(i)[1], out, self.describe(i), mirror=mirror)

    def describe(self, i: int) -> str:
        """File, key and byte offset."""
        return self._place(int(self._keys[i]), int(self._offsets[i]))

    def fingerprint(self) -> str:
        """Covers the file's size, all keys, offsets and labels, and up to 4,096 records spread evenly."""
        return self._fingerprint

    def stamp(self) -> str:
        """See ``Source.stamp``."""
        return content_hash([self._fingerprint.encode(), str(self._path.stat().st_mtime_ns).encode()])

    @cached_property
    def _fingerprint(self) -> str:
        return content_hash(self._hashed_parts())

    def _hashed_parts(self) -> Iterator[bytes | memoryview]:
        yield f"recordio {len(self._bytes)} {self.identities}".encode()
        for array in (self._keys, self._offsets, self.labels):
            yield array.tobytes()
        for i in spread(len(self), _HASHED_RECORDS):
            yield self._payload(int(self._offsets[i]), self.describe(i))

    def _place(self, key: int, offset: int) -> str:
        return f"{self._path}, record {key} at byte {offset}"

    def _select_images(self) -> None:
        """In the header-with-list style, keep only the keys of images."""
        if self._keys[0] != 0:
            return
        where = self._place(0, int(self._offsets[0]))
        payload = self._payload(int(self._offsets[0]), where)
        if len(payload) != _HEADER.size + 8 or _HEADER.unpack_from(payload)[0] != 2:
            return
        (end,) = struct.unpack_from("<f", payload, _HEADER.size)
        if not (end >= 2 and end.is_integer()):
            raise UserError(f"the header says that images end before key {end}", where, _COPY_AGAIN)
        listed = np.searchsorted(self._keys, int(end)) - 1  # how many keys lie in 1 .. end - 1
        if listed != int(end) - 1:
            wrong = np.flatnonzero(self._keys[1 : listed + 1] != np.arange(1, listed + 1))
            missing = int(wrong[0] if len(wrong) else listed) + 1
            raise UserError(
                f"key {missing} is missing (the header in record 0 promises images 1 to {int(end) - 1})",
                str(self._path.with_suffix(".idx")),
                _COPY_AGAIN,
            )
        self._keys, self._offsets = self._keys[1 : listed + 1], self._offsets[1 : listed + 1]

    def _parse(self, i: int) -> tuple[int, Encoded]:
        """Label and encoded image of sample ``i``, everything checked."""
        where = self.describe(i)
        payload = self._payload(int(self._offsets[i]), where)
        if len(payload) < _HEADER.size:
            raise UserError(
                f"its payload of {len(payload)} bytes is too short for an image", where, _COPY_AGAIN
            )
        flag, label = _HEADER.unpack_from(payload)[:2]
        start = _HEADER.size + 4 * flag
        if len(payload) < start:
            raise UserError(
                f"it announces {flag} labels, more than its {len(payload)} bytes hold", where, _COPY_AGAIN
            )
        if flag:
            (label,) = struct.unpack_from("<f", payload, _HEADER.size)
        if not (label >= 0 and label.is_integer() and label < MAX_IDENTITIES):
            raise UserError(f"its label is {label}, not a whole number from 0", where, _COPY_AGAIN)
        if self._declared and label >= self._declared:
            raise UserError(
                f"its label is {int(label)}, but {self._path.with_name('property')} says {self._declared} identities",
                where,
                "correct the first number of the property file, or remove that file to have it counted",
            )
        return int(label), payload[start:]

    def _payload(self, offset: int, where: str) -> Encoded:
        """The payload of the record at ``offset``; its parts joined if it was stored in several."""
        parts: list[memoryview] = []
        while True:
            if offset + _PART.size > len(self._view):
                raise UserError(f"the file ends before it, at byte {len(self._view)}", where, _COPY_AGAIN)
            magic, word = _PART.unpack_from(self._view, offset)
            if magic != MAGIC:
                raise UserError(f"it starts with {magic:#010x}, not {MAGIC:#x}", where, _COPY_AGAIN)
            kind, length = word >> 29, word & 0x1FFFFFFF
            start, end = offset + _PART.size, offset + _PART.size + length
            if end > len(self._view):
                raise UserError(f"the file ends inside it, at byte {len(self._view)}", where, _COPY_AGAIN)
            if kind not in ((2, 3) if parts else (0, 1)):
                raise UserError(f"part kind {kind} is out of place", where, _COPY_AGAIN)
            parts.append(self._view[start:end])
            if kind == 0:
                return parts[0]
            if kind == 3:
                return MAGIC.to_bytes(4, "little").join(parts)
            offset = end + -length % 4


def _map(path: Path) -> NDArray[np.uint8]:
    """The file as uint8 ``[size]``, mapped and read-only."""
    try:
        with path.open("rb") as file:
            if (size := path.stat().st_size) < _SHORTEST:
                raise UserError(f"has {size} bytes, too few for one record", str(path), _COPY_AGAIN)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", str(path), "check the path and permissions"
        ) from error


def _read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys, ascending, and byte offsets of all records; lines may come in any order."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})",
            str(path),
            "the .idx must lie beside the .rec and have its name",
        ) from error
    strange = text.translate(None, b"0123456789 \t\r\n")
    if strange:
        raise UserError(f"contains {strange[:8]!r}, not only keys and offsets", str(path), _COPY_AGAIN)
    # fromstring stops silently at what is no number; the line above left nothing of that kind.
    pairs = np.fromstring(text.decode(), dtype=np.int64, sep=" ")
    if len(pairs) == 0 or len(pairs) % 2:
        raise UserError(f"holds {len(pairs)} numbers, not pairs of key and offset", str(path), _COPY_AGAIN)
    keys, offsets = pairs[::2], pairs[1::2]
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        raise UserError(f"lists key {keys[twice[0]]} twice", str(path), _COPY_AGAIN)
    return keys, offsets


def _declared_identities(path: Path) -> int | None:
    """First field of a ``property`` file (``identities,height,width``), None if there is no such file."""
    if not path.is_file():
        return None
    first = path.read_bytes()[:64].split(b",")[0].strip()
    if not (first.isdigit() and 0 < int(first) <= MAX_IDENTITIES):
        raise UserError(
            f"starts with {first!r}, not with the number of identities",
            str(path),
            "write identities,height,width (such as 1926,112,112), or remove the file to have them counted",
        )
    return int(first)
