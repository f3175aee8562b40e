"""Thousands of damaged .rec, .idx and property files: each opens or is refused by a UserError, fast and small."""

import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.mutations import mutate
from tests.unit.data.recfile import listed_records, plain_records, write_rec
from topoface.data import open_source
from topoface.errors import UserError

CASES = 1500  # for each style of file
NUMBERS = [
    0,
    1,
    24,
    2**29 - 1,
    2**29,
    2**31,
    2**32 - 1,
    0x7F800000,
    0x7FC00000,
    0xCED7230A,
]  # also inf and NaN


def _read_everything(path: Path) -> int:
    """Number of samples that could be read; UserErrors are fine, whatever else is raised is not."""
    try:
        source = open_source(path)
        source.describe(0)
    except UserError:
        return 0
    readable, row = 0, np.empty((112, 112, 3), dtype=np.uint8)
    try:
        assert len(source.labels) == len(source)
        assert 0 <= source.labels.min() <= source.labels.max() < source.identities
        source.fingerprint()
    except UserError:
        pass
    for i in range(len(source)):
        try:
            source.read_into(i, row)
            image, label = source[i]
        except UserError:
            continue
        assert np.array_equal(image, row)
        assert label >= 0
        readable += 1
    return readable


def _replace(path: Path, data: bytes) -> None:
    path.unlink()  # cutting a file short in place waits for the disk, and could pull it from under a map
    path.write_bytes(data)


@pytest.mark.parametrize("style", ["plain", "listed"])
def test_damaged_record_files_are_read_or_refused(tmp_path: Path, style: str) -> None:
    records = plain_records(2, 2) if style == "plain" else listed_records(2, 2)
    path = write_rec(tmp_path, records, declared=2)
    files = {file: file.read_bytes() for file in (path, path.with_suffix(".idx"), tmp_path / "property")}
    offsets = [int(line.split(b"\t")[1]) for line in files[path.with_suffix(".idx")].splitlines()]
    before, started, untouched = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), 0
    for case in range(CASES):
        rng = np.random.default_rng([case, len(style)])
        victim = rng.choice([path, path, path, path.with_suffix(".idx"), tmp_path / "property"])
        data = files[victim]
        if victim == path and rng.random() < 0.5:  # aim at the 12 words of a record's headers
            at = int(rng.choice(offsets)) + 4 * int(rng.integers(12))
            number = struct.pack("<I", int(rng.choice(NUMBERS)))
            data = data[:at] + number + data[at + 4 :]
        else:
            data = mutate(data, rng)
        _replace(victim, data)
        untouched += _read_everything(tmp_path) == 4
        _replace(victim, files[victim])
    assert 0 < untouched < CASES  # damage to one image must leave others alone, and most damage is noticed
    assert time.monotonic() - started < 120
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_the_undamaged_files_read_whole(tmp_path: Path) -> None:
    write_rec(tmp_path, plain_records(2, 2), declared=2)
    assert _read_everything(tmp_path) == 4
