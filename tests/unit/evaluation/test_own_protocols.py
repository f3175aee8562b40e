"""Protocols of one's own faces: what is drawn, that it is always the same, and that it can be judged on."""

import csv
import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from tests.unit.data.recfile import Record, write_rec
from tests.unit.evaluation.faces import embed, jpeg
from topoface import cli
from topoface.data import open_source
from topoface.errors import UserError
from topoface.evaluation import open_protocol, verify
from topoface.evaluation.groups.attributes import group_pairs, read_attributes
from topoface.evaluation.manifests import drawing
from topoface.evaluation.manifests.drawing import draw_protocols
from topoface.evaluation.manifests.reading import open_manifest

SIZES = [1, 2, 7, 3, 1, 4, 12, 2, 5, 1, 3, 2, 6, 1, 2, 3, 40, 2]


def faces(root, sizes=SIZES, order=1):
    """Folders of people, made in one order or the other."""
    for person in list(range(len(sizes)))[::order]:
        (root / f"p{person:02d}").mkdir(parents=True)
        for k in list(range(sizes[person]))[::order]:
            (root / f"p{person:02d}" / f"{k}.jpg").write_bytes(b"face" if sizes is SIZES else jpeg(person, k))
    return root


def records(root, sizes):
    listed = [(person, k) for person in range(len(sizes)) for k in range(sizes[person])]
    return write_rec(
        root, [Record(n, person, jpeg(person, k)) for n, (person, k) in enumerate(listed)], name="set"
    )


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    draw_protocols(open_source(faces(root / "faces")), root / "out", folds=3)
    return root


def test_the_same_seed_gives_the_same_bytes_whatever_the_order_on_disk(drawn, tmp_path):
    other = open_source(faces(tmp_path / "faces", order=-1))
    draw_protocols(other, tmp_path / "out", folds=3)
    assert contents(tmp_path / "out") == contents(drawn / "out")
    draw_protocols(other, tmp_path / "out", folds=3)  # once more, in place
    draw_protocols(other, tmp_path / "deep" / "er", folds=3)
    for name, data in contents(tmp_path / "deep" / "er").items():
        assert (
            name == "protocols.json" or data == contents(drawn / "out")[name]
        )  # it says where the faces are
    draw_protocols(other, tmp_path / "two", folds=3, seed=1)
    changed = [
        name for name, data in contents(tmp_path / "two").items() if data != contents(drawn / "out")[name]
    ]
    assert sorted(changed) == ["pairs.csv", "protocols.json", "search.csv", "templates.csv"]


def test_folds_share_nobody_and_no_pair_stands_twice(drawn):
    rows = table(drawn / "out" / "pairs.csv")
    people = defaultdict(set)
    for row in rows:
        people[row["fold"]] |= {row["identity1"], row["identity2"]}
        assert (row["identity1"] == row["identity2"]) == (row["same"] == "1")
        assert row["path1"] != row["path2"]
        assert all(row[f"path{k}"].startswith(f"{row[f'identity{k}']}/") for k in (1, 2))
    assert len(people) == 3
    assert not any(people[a] & people[b] for a in people for b in people if a != b)
    assert len({frozenset((row["path1"], row["path2"])) for row in rows}) == len(rows)
    assert len(set(Counter((row["fold"], row["same"]) for row in rows).values())) == 1


def test_pairs_are_spread_over_people_as_evenly_as_images_allow():
    rng = np.random.default_rng(0)
    for _ in range(50):
        room = rng.integers(0, 30, 12)
        total = int(rng.integers(0, room.sum() + 1))
        taken = drawing._spread(room, total, rng)
        assert taken.sum() == total
        assert (taken <= room).all()
        full = taken == room
        assert full.all() or taken.max() <= taken[~full].min() + 1
    couples = [drawing._couple(k) for k in range(45)]
    assert couples == [(i, j) for j in range(10) for i in range(j)]


def test_all_pairs_that_there_are_can_be_asked_for_and_not_one_more(tmp_path):
    source = open_source(faces(tmp_path / "faces", [2, 2, 2, 2]))
    draw_protocols(source, tmp_path / "out", folds=2, pairs=8)
    assert len(table(tmp_path / "out" / "pairs.csv")) == 8
    with pytest.raises(UserError, match=r"12 pairs in 2 folds cannot be made .* ask for 8 at most"):
        draw_protocols(source, tmp_path / "more", folds=2, pairs=12)
    assert not (tmp_path / "more").exists()


def test_nobody_in_the_search_has_two_parts_and_no_image_two_roles(drawn):
    rows = table(drawn / "out" / "search.csv")
    images = Counter(row["image"] for row in rows)
    assert set(images.values()) == {1}
    role = defaultdict(set)
    for row in rows:
        role[row["person"]].add(row["role"])
    parts = Counter(tuple(sorted(roles)) for roles in role.values())
    assert parts == {("gallery", "probe"): 7, ("probe",): 6, ("distractor",): 5}
    probes = Counter(row["person"] for row in rows if row["role"] == "probe")
    assert max(probes.values()) <= 5
    counts = json.loads((drawn / "out" / "protocols.json").read_text())["files"]["search.csv"]
    search = open_manifest(str(drawn / "out" / "search.csv")).searches[0]
    mated = int(np.isin(search.probe_people, search.gallery_people).sum())
    assert counts == {
        "people in the gallery": 7,
        "gallery": len(search.gallery),
        "probes with a mate": mated,
        "probes without a mate": len(search.probes) - mated,
        "distractors": len(search.distractors),
    }


def test_templates_hold_up_to_five_images_of_one_person_each_once(drawn):
    rows = table(drawn / "out" / "templates.csv")
    assert max(Counter(row["image"] for row in rows).values()) == 1
    assert max(Counter(row["template"] for row in rows).values()) == 5
    assert all(row["image"].startswith(row["person"] + "/") for row in rows)
    protocol = open_manifest(str(drawn / "out" / "templates.csv"))
    counts = json.loads((drawn / "out" / "protocols.json").read_text())["files"]["templates.csv"]
    genuine = int(protocol.same.sum())
    assert (counts["genuine"], counts["impostor"]) == (genuine, len(protocol.same) - genuine)
    assert counts["templates"] == len(protocol.template_ids)


@pytest.mark.parametrize(
    ("sizes", "options", "said"),
    [
        ([1, 1, 1, 1], {}, "4 people, 0 of them with two images or more"),
        ([2, 2, 2], {"folds": 2}, "2 folds need 4 and 2"),
        ([2, 2, 2, 2], {"folds": 1}, "--folds: is 1"),
        ([2, 2, 2, 2], {"folds": 2, "pairs": 6}, "--pairs: is 6; give a multiple of 4"),
        ([2, 2, 2, 2], {"folds": 2, "gallery_share": 1.0}, "--gallery-share: is 1"),
    ],
)
def test_too_little_is_said_in_one_line_and_nothing_is_written(tmp_path, sizes, options, said):
    source = open_source(faces(tmp_path / "faces", sizes))
    with pytest.raises(UserError, match=said):
        draw_protocols(source, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_a_folder_that_holds_something_else_is_left_alone(drawn, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        draw_protocols(open_source(drawn / "faces"), tmp_path, folds=3)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        draw_protocols(open_source(drawn / "faces"), tmp_path / "file" / "out", folds=3)


def test_a_run_that_broke_off_leaves_no_half_of_a_protocol(drawn, tmp_path, monkeypatch):
    from pathlib import Path

    write = Path.write_bytes

    def full(path, data):
        if path.name == "search.csv":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        draw_protocols(open_source(drawn / "faces"), tmp_path / "out", folds=3)
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_list_can_hold_is_refused(tmp_path):
    root = faces(tmp_path / "faces", [2, 2, 2, 2])
    (root / "p00").rename(root / " p00")
    with pytest.raises(UserError, match=r"' p00/.*' cannot stand in a list"):
        draw_protocols(open_source(root), tmp_path / "out", folds=2)


@pytest.mark.parametrize("kind", ["folder", "selection", "records", "drawn faces"])
def test_protocols_of_every_kind_of_source_can_be_judged(tmp_path, kind):
    sizes = [3] * 6 + [1]
    where = records(tmp_path, sizes) if kind == "records" else faces(tmp_path / "faces", sizes)
    uri = {"selection": f"{where}?least_images=2", "drawn faces": "synthetic:?identities=6&images=3"}.get(
        kind, str(where)
    )
    out = tmp_path / "runs" / "out"
    assert cli.main(["protocols", uri, str(out), "--folds", "2"]) == 0
    protocol = open_protocol(out / "pairs.csv")
    source = open_source(uri)
    first = table(out / "pairs.csv")[0]["path1"]
    position = int(first) if first.isdecimal() else None
    if position is not None:
        np.testing.assert_array_equal(protocol.images[0], source[position][0])
    assert protocol.interval_unit == "identity"
    assert protocol.synthetic == (kind == "drawn faces")
    if kind != "drawn faces":
        assert verify(embed, protocol, bootstrap=0).auc.value == 1.0
    for name in ("templates", "search"):
        manifest = open_manifest(str(out / f"{name}.csv"))
        assert manifest.images[0].shape == (112, 112, 3)
        assert len(manifest.images.stamps()) == len(manifest.images)


def test_every_abbreviation_on_a_page_is_explained_on_it(tmp_path, monkeypatch):
    """Pairs, templates, a search and groups of one's own faces: what tables, captions and headings say stands in the glossary."""
    monkeypatch.setattr("topoface.cli.evaluate._pair_embed", lambda model, device: (embed, "digest"))
    monkeypatch.setattr("topoface.evaluation.features.open_embed", lambda path, device="cpu": (embed, path))
    monkeypatch.chdir(tmp_path)
    source = faces(tmp_path / "faces", [4] * 24 + [1] * 8)
    draw_protocols(open_source(source), tmp_path / "out", folds=2)
    attributes = ["person,shape,half", *(f"p{i:02d},{'ab'[i % 2]},{'xy'[i // 2 % 2]}" for i in range(32))]
    (tmp_path / "people.csv").write_text("\n".join(attributes))
    listed = [f"out/{name}.csv" for name in ("pairs", "templates", "search")]
    options = ["--attributes", "people.csv", "--by", "shape,half", "--bootstrap", "20", "--cache", "none"]
    assert cli.main(["evaluate", "m.onnx", *listed, *options, "--report", "r.html"]) == 0
    page = re.sub(r"<svg.*?</svg>|<style.*?</style>", " ", (tmp_path / "r.html").read_text(), flags=re.S)
    body, glossary = page.split('<h2 id="meaning">')
    said = " ".join(re.findall(r"<(?:th|h2|h3|figcaption)\b.*?</(?:th|h2|h3|figcaption)>", body, re.S))
    found = set(
        re.findall(r"\b(?:[A-Z]{2,}[a-z]?|1:[1N]|minDCF|Cllr|Brier)\b", re.sub(r"<[^>]*>", " ", said))
    )
    assert {"TAR", "FAR", "FNIR", "TPIR", "CMC", "DET", "FMR", "FNMR", "1:N", "Cllr"} <= found
    assert {word for word in found if word not in glossary} == set()
    assert "shape and half" in body


@pytest.mark.parametrize("kind", ["records", "drawn faces"])
def test_people_whose_images_are_named_by_position_are_matched_as_the_manifest_names_them(tmp_path, kind):
    uri = str(records(tmp_path, [3] * 6)) if kind == "records" else "synthetic:?identities=6&images=3"
    source = open_source(uri)
    draw_protocols(source, tmp_path / "out", folds=2)
    protocol = open_protocol(tmp_path / "out" / "pairs.csv")
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(source.names)]
    (tmp_path / "people.csv").write_text("\n".join(["person,kind", *rows]))
    (found,), notes = group_pairs(read_attributes(tmp_path / "people.csv"), protocol)
    assert notes == ()
    label = source.labels[[int(name) for name in protocol.images.names]]
    np.testing.assert_array_equal(found.sides, label[protocol.pairs] % 2)
    (tmp_path / "people.csv").write_text("person,kind\nnobody,a\n")
    with pytest.raises(
        UserError, match=r"names no person of pairs.*as identity1 and identity2 of the manifest"
    ):
        group_pairs(read_attributes(tmp_path / "people.csv"), protocol)


def test_records_that_changed_are_noticed(tmp_path):
    draw_protocols(open_source(records(tmp_path, [2] * 4)), tmp_path / "out", folds=2)
    records(tmp_path, [3] * 4)
    for opened in (open_protocol, open_manifest):
        with pytest.raises(UserError, match=r"has changed since the protocols were drawn"):
            opened(str(tmp_path / "out" / ("pairs.csv" if opened is open_protocol else "search.csv")))
    (tmp_path / "out" / "protocols.json").write_text('{"images": 3}')
    with pytest.raises(UserError, match=r"protocols.json: is not what .topoface protocols. wrote"):
        open_protocol(tmp_path / "out" / "pairs.csv")
