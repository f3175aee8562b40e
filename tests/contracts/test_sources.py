"""Every source keeps the promises of ``topoface.data.Source``."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.real_data import DATA, needs_data
from tests.unit.data.recfile import (
    Record,
    encoded,
    face,
    listed_records,
    plain_records,
    write_folder,
    write_rec,
)
from topoface.data import Loader, Source, UniformOrder, describe_source, open_source

Build = Callable[[Path, int], str | Path]  # a place and a variant of the content -> what to open


def _changed(records: list[Record], variant: int) -> list[Record]:
    if variant:
        records[2].image = encoded(face(99))
    return records


def _folder(place: Path, variant: int) -> Path:
    write_folder(place)
    if variant:
        (place / "person_0" / "1.jpg").write_bytes(encoded(face(99)))
    return place


def _selection(place: Path, variant: int) -> str:
    folder = _folder(place, variant)
    (folder / "person_0a").mkdir()
    (folder / "person_0a" / "only.jpg").write_bytes(encoded(face(7)))
    return f"{folder}?least_images=2"


KINDS: dict[str, Build] = {
    "folder": _folder,
    "record": lambda place, variant: write_rec(place, _changed(plain_records(), variant), declared=3).parent,
    "record with list": lambda place, variant: write_rec(place, _changed(listed_records(), variant)),
    "folder with one person too few": _selection,
    "synthetic": lambda place, variant: f"synthetic:?identities=3&images=4&seed={variant}",
}


@pytest.fixture(params=KINDS)
def build(request: pytest.FixtureRequest) -> Build:
    return KINDS[request.param]


@pytest.fixture
def source(build: Build, tmp_path: Path) -> Source:
    return open_source(build(tmp_path / "here", 0))


def test_length_index_and_iteration_agree(source: Source) -> None:
    walked = list(source)
    assert len(walked) == len(source) == 12
    for i, (image, label) in enumerate(walked):
        again, same_label = source[i]
        assert np.array_equal(image, again)
        assert label == same_label == source.labels[i]
        assert type(label) is int
    assert np.array_equal(source[-1][0], walked[-1][0])
    assert np.array_equal(source[np.int64(3)][0], walked[3][0])


@pytest.mark.parametrize("i", [12, -13, 10**9])
def test_a_position_out_of_range_is_an_index_error(source: Source, i: int) -> None:
    with pytest.raises(IndexError):
        source[i]


def test_images_are_rgb_bytes_that_belong_to_the_caller(source: Source) -> None:
    image, _ = source[0]
    assert (image.dtype, image.shape) == (np.uint8, (112, 112, 3))
    before = image.copy()
    image[...] = 0
    assert np.array_equal(source[0][0], before)


def test_labels_are_compact_and_read_once(source: Source) -> None:
    labels = source.labels
    assert labels.dtype == np.int64
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert source.identities == 3
    assert source.labels is labels


def test_read_into_equals_reading(source: Source) -> None:
    rows = np.full((3, 112, 112, 3), 7, dtype=np.uint8)
    for i in (0, 5, 11):
        source.read_into(i, rows[0])
        source.read_into(i, rows[1], mirror=True)
        assert np.array_equal(rows[0], source[i][0])
        assert np.array_equal(rows[1], source[i][0][:, ::-1])
    assert (rows[2] == 7).all()


def test_the_same_bytes_in_any_thread(source: Source) -> None:
    expected = [image.tobytes() for image, _ in source]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: source[i][0].tobytes(), list(range(12)) * 8))
    assert found == expected * 8


def test_every_sample_has_a_name_of_its_own(source: Source) -> None:
    names = [source.describe(i) for i in range(len(source))]
    assert len(set(names)) == len(source)
    assert all(name and "\n" not in name for name in names)


def test_the_fingerprint_is_stable_and_follows_the_content(build: Build, tmp_path: Path) -> None:
    first, again, changed = (
        open_source(build(tmp_path / place, variant)).fingerprint()
        for place, variant in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != changed
    assert len(first) == 32
    assert int(first, 16) >= 0


def test_it_feeds_a_loader_and_can_be_described(source: Source) -> None:
    (batch,) = Loader(source, UniformOrder(len(source), 12, 0), seed=0).batches(0, 1)
    assert sorted(batch.indices.tolist()) == list(range(12))
    info = describe_source(source)
    assert (info.images, info.identities, info.uri) == (12, 3, source.uri)
    assert info.sizes == ((112, 112, 12),)


@needs_data
def test_the_real_training_set_has_the_documented_size() -> None:
    source = open_source(DATA / "train")
    assert (len(source), source.identities) == (15_124, 1_926)
    assert (np.diff(source.labels) >= 0).all()
    info = describe_source(source)
    assert (info.per_identity[0], info.per_identity[1], info.per_identity[3]) == (3, 6, 30)
    assert info.sizes == ((112, 112, 128),)
    assert info.empty_identities == 0
    loader = Loader(source, UniformOrder(len(source), 128, 0), seed=0)
    assert sum(len(batch.labels) for batch in loader.batches(0, 20)) == 20 * 128


def test_every_label_has_a_name_of_its_own_that_stays(source: Source, build: Build, tmp_path: Path) -> None:
    names = list(source.names)
    assert len(names) == source.identities == len(set(names))
    assert all(isinstance(name, str) for name in names)
    assert list(open_source(build(tmp_path / "elsewhere", 0)).names) == names
