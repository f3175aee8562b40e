"""Every kind of protocol opens to the same thing, and every broken one says which line is wrong."""

import json
import pickle
import zipfile

import numpy as np
import pytest

from tests.real_data import DATA, needs_data
from tests.unit.evaluation.faces import face, jpeg, lfw_folder
from topoface.errors import UserError
from topoface.evaluation import open_protocol


def zipped(folder, archive, compression=zipfile.ZIP_STORED, prefix=""):
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


def same_protocol(a, b):
    assert len(a.images) == len(b.images)
    for name in ("pairs", "same", "folds", "identities"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for i in range(len(a.images)):
        np.testing.assert_array_equal(a.images[i], b.images[i])


@pytest.fixture
def lfw(tmp_path):
    return lfw_folder(tmp_path / "lfw")


def test_an_lfw_folder_gives_pairs_folds_and_people(lfw):
    protocol = open_protocol(lfw)
    assert (protocol.name, len(protocol.images), len(protocol.same)) == ("lfw", 40, 40)
    assert protocol.same.sum() == 20
    assert np.bincount(protocol.folds).tolist() == [20, 20]
    assert len(np.unique(protocol.identities)) == 20
    assert protocol.interval_unit == "identity"
    assert protocol.pairs.dtype == protocol.folds.dtype == protocol.identities.dtype == np.int64
    people = protocol.identities[protocol.pairs]
    np.testing.assert_array_equal(people[:, 0] == people[:, 1], protocol.same)
    assert protocol.images[0].shape == (112, 112, 3)
    assert abs(protocol.images[0].astype(int) - face(0, 1)).mean() < 15
    assert not protocol.synthetic


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["", "faces/"])
def test_a_zip_is_read_in_place_like_the_folder(lfw, tmp_path, compression, prefix):
    archive = zipped(lfw, tmp_path / "all.zip", compression, prefix)
    same_protocol(open_protocol(f"{archive}::{lfw / 'pairs.txt'}"), open_protocol(lfw))
    same_protocol(open_protocol(archive), open_protocol(lfw))  # the archive holds its own list


def test_a_folder_with_one_zip_and_one_list_needs_no_more(lfw, tmp_path):
    home = tmp_path / "packed"
    home.mkdir()
    zipped(lfw, home / "images.zip")
    (lfw / "pairs.txt").rename(home / "pairs.txt")
    whole = open_protocol(home)
    assert whole.name == "packed"
    same_protocol(open_protocol(f"{home}::pairs.txt"), whole)
    (home / "pairs_more.txt").write_text("")
    with pytest.raises(UserError, match=r"2 lists of pairs \(pairs.txt, pairs_more.txt\); name one"):
        open_protocol(home)
    (home / "other.zip").write_bytes(b"")
    with pytest.raises(UserError, match="2 zip archives"):
        open_protocol(home)


def test_path_lists_manifests_and_json_lines_agree(lfw):
    base = open_protocol(lfw)
    rows = [
        {
            "path1": base.images.names[left],
            "path2": base.images.names[right],
            "same": int(same),
            "fold": int(fold),
            "identity1": str(base.images.names[left].split("/")[0]),
            "identity2": str(base.images.names[right].split("/")[0]),
        }
        for (left, right), same, fold in zip(base.pairs.tolist(), base.same, base.folds, strict=True)
    ]
    text = {
        "list.txt": "\n".join(f"{r['fold']} {r['path1']} {r['path2']} {r['same']}" for r in rows),
        "full.csv": "\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]),
        "full.jsonl": "\n".join(json.dumps(r) for r in rows),
        "booleans.jsonl": "\n".join(json.dumps({**r, "same": bool(r["same"])}) for r in rows),
        "bare.csv": "\ufeff"
        + "\n".join(["path1,path2,same,fold", *(",".join(map(str, list(r.values())[:4])) for r in rows)]),
    }
    for name, content in text.items():
        (lfw / name).write_text(content, encoding="utf-8")
        uri = f"{lfw}::{name}" if name.endswith("txt") else lfw / name
        same_protocol(open_protocol(uri), base)
        assert open_protocol(uri).interval_unit == "identity"  # from the folders where no column says it


def test_a_bin_shares_images_and_links_people_by_genuine_pairs(tmp_path):
    people = [(0, 1), (0, 2), (0, 1), (0, 3), (1, 1), (1, 2), (1, 1), (2, 1), (3, 1), (4, 1)]
    path = tmp_path / "mini.bin"
    path.write_bytes(pickle.dumps(([jpeg(*who) for who in people], [True, True, True, False, False])))
    protocol = open_protocol(path)
    assert (protocol.name, protocol.interval_unit) == ("mini", "linked images")
    assert len(protocol.images) == 8  # (0, 1) and (1, 1) occur twice
    assert protocol.pairs.tolist() == [[0, 1], [0, 2], [3, 4], [3, 5], [6, 7]]
    groups = protocol.identities
    assert groups[0] == groups[1] == groups[2] != groups[3] == groups[4]
    assert len(set(groups.tolist())) == 5
    assert any("linked by genuine pairs" in note for note in protocol.notes)
    np.testing.assert_array_equal(protocol.folds, np.arange(5))


def test_lists_without_folds_get_consecutive_tenths_of_each_kind(lfw):
    base = open_protocol(lfw)
    (lfw / "flat.txt").write_text(
        "\n".join(
            f"{base.images.names[a]} {base.images.names[b]} {int(s)}"
            for (a, b), s in zip(base.pairs.tolist(), base.same, strict=True)
        )
    )
    protocol = open_protocol(f"{lfw}::flat.txt")
    for kind in (protocol.same, ~protocol.same):
        assert protocol.folds[kind].tolist() == np.repeat(np.arange(10), 2).tolist()


def test_people_are_unknown_where_folders_contradict_the_labels(lfw):
    base = open_protocol(lfw)
    lines = [
        f"{fold} {base.images.names[a]} {base.images.names[b]} {int(not same)}"  # every label is turned round
        for (a, b), same, fold in zip(base.pairs.tolist(), base.same, base.folds, strict=True)
    ]
    (lfw / "odd.txt").write_text("\n".join(lines))
    assert open_protocol(f"{lfw}::odd.txt").interval_unit == "linked images"


def test_the_fingerprint_follows_pairs_labels_and_images(lfw, tmp_path):
    first = open_protocol(lfw).fingerprint
    assert open_protocol(lfw).fingerprint == first
    archive = zipped(lfw, tmp_path / "a.zip")
    before = open_protocol(archive).fingerprint
    (lfw / "Person_A" / "Person_A_0001.jpg").write_bytes(jpeg(50, 1))
    assert open_protocol(zipped(lfw, tmp_path / "a.zip")).fingerprint != before
    text = (lfw / "pairs.txt").read_text()
    (lfw / "pairs.txt").write_text(text.replace("Person_A\t1\t2", "Person_A\t2\t1"))
    assert open_protocol(lfw).fingerprint != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("Person_C\t1\t2", "Person_C\t1\t3"),
            r"pairs.txt:4: no image 'Person_C/Person_C_0003'",
        ),
        (lambda t: t.replace("Person_C\t1\t2", "Person_C\tone\ttwo"), r"pairs.txt:4: .* is no pair; write"),
        (
            lambda t: t.replace("2\t10", "2\t11"),
            r"pairs.txt:1: 40 pairs follow a header that announces 2 x 2 x 11",
        ),
        (lambda t: "", "0 genuine and 0 impostor pairs"),
        (lambda t: "1\t20\n" + "\n".join(sorted(t.splitlines()[1:])), "all pairs are in one fold"),
    ],
)
def test_a_wrong_lfw_list_is_refused_by_line(lfw, change, message):
    (lfw / "pairs.txt").write_text(change((lfw / "pairs.txt").read_text()))
    with pytest.raises(UserError, match=message):
        open_protocol(lfw)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "path1,path2,same\nA,B,2\n", r"m.csv:2: same is '2'; write 1 or 0"),
        ("m.csv", "path1,path2\nA,B\n", r"m.csv:2: has no same"),
        ("m.csv", "path1,path2,same,identity1,identity2\nA,B,1,x,y\n", "same is 1 for identities 'x' and 'y'"),
        ("m.csv", "path1,path2,same\nPerson_A/Person_A_0001.jpg,gone.jpg,1\n", r"m.csv:2: no image 'gone.jpg'"),
        ("m.csv", "path1,path2,same\nPerson_A/Person_A_0001.jpg,Person_A/Person_A_0002.jpg,1\n", "1 genuine and 0 impostor"),
        ("m.csv", "path1,path2,same\n", "0 genuine and 0 impostor"),
        ("m.csv", b"path1,path2,same\n\xff,B,1\n", "is no UTF-8 text"),
        ("m.jsonl", '{"path1": "A", "path2": "B", "same": 1}\nnonsense\n', r"m.jsonl:2: is no JSON object"),
        ("m.jsonl", "[" * 100_000, "is no"),
        ("m.jsonl", '{"path1": ' + "[" * 100_000, "is no JSON object"),
        ("m.npz", "", "is no protocol"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_refused_by_line(lfw, name, content, message):
    (lfw / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        open_protocol(lfw / name)


def test_one_image_with_two_identities_is_refused(lfw):
    rows = [
        "Person_A/Person_A_0001.jpg,Person_A/Person_A_0002.jpg,1,a,a",
        "Person_A/Person_A_0001.jpg,Person_B/Person_B_0001.jpg,0,c,b",
    ]
    (lfw / "m.csv").write_text("\n".join(["path1,path2,same,identity1,identity2", *rows]))
    with pytest.raises(UserError, match=r"m.csv:3: image .* shows 'c' here and 'a' before"):
        open_protocol(lfw / "m.csv")


@pytest.mark.parametrize(
    "uri", ["nothing", "nothing::pairs.txt", "nothing.zip", "nothing.bin", "nothing.csv"]
)
def test_what_is_absent_is_said_to_be(tmp_path, uri):
    with pytest.raises(UserError, match="does not exist"):
        open_protocol(tmp_path / uri)


def test_folders_and_zips_without_a_list_ask_for_one(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no list of pairs \(pairs\*.txt\); name one: .*empty::PAIRS"):
        open_protocol(tmp_path / "empty")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(UserError, match="cannot be read as a zip archive"):
        open_protocol(tmp_path / "broken.zip")


def test_what_is_no_list_of_pairs_is_said_to_be_none(tmp_path):
    (tmp_path / "templates.csv").write_text("image,template,person\n")
    with pytest.raises(
        UserError, match=r"templates.csv: lists templates, and pairs of images are wanted here; give"
    ):
        open_protocol(tmp_path / "templates.csv")
    with pytest.raises(
        UserError, match=r"all-pairs:faces: is no list of pairs; topoface evaluate and calibrate"
    ):
        open_protocol("all-pairs:faces")


def test_damaged_images_are_named(lfw, tmp_path):
    archive = zipped(lfw, tmp_path / "a.zip", zipfile.ZIP_DEFLATED)
    protocol = open_protocol(f"{archive}::{lfw / 'pairs.txt'}")
    (lfw / "Person_A" / "Person_A_0001.jpg").write_bytes(b"\xff\xd8 half a picture")
    with pytest.raises(UserError, match=r"Person_A_0001\.jpg: cannot be decoded"):
        open_protocol(lfw).images[0]
    data = bytearray(archive.read_bytes())
    data[200:260] = bytes(60)
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"Person_A_0001\.jpg: cannot be read"):
        protocol.images[0]


def test_drawn_faces_make_a_protocol_of_people_with_disjoint_folds():
    protocol = open_protocol("synthetic:?identities=40&images=3&pairs=200&seed=5")
    assert (protocol.name, protocol.synthetic, protocol.interval_unit) == ("synthetic", True, "identity")
    assert (len(protocol.same), protocol.same.sum(), protocol.folds.max()) == (200, 100, 9)
    assert "identity 1000" in protocol.images.names[0]  # unseen: the training default starts at 0
    people = protocol.identities[protocol.pairs]
    np.testing.assert_array_equal(people[:, 0] == people[:, 1], protocol.same)
    for fold in range(10):
        here, elsewhere = people[protocol.folds == fold], people[protocol.folds != fold]
        assert not set(here.ravel().tolist()) & set(elsewhere.ravel().tolist())
    assert protocol.images[7].shape == (112, 112, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("pairs=ten", "pairs is 'ten'; give a multiple of 10"),
        ("pairs=25", "give a multiple of 10"),
        ("identitys=10", "unknown key 'identitys'"),
        ("identities=20&images=2&pairs=3000", "cannot be made of 2 identities"),
    ],
)
def test_wrong_options_of_drawn_faces_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        open_protocol(f"synthetic:?{options}")


@needs_data
@pytest.mark.parametrize(
    ("uri", "name", "images", "pairs", "people"),
    [("lfw", "lfw", 7701, 6000, 4281), ("cfp::pairs_ff.txt", "cfp_ff", 4764, 7000, 500), ("cfp::pairs_fp.txt", "cfp_fp", 5901, 7000, 500)],
)  # fmt: skip
def test_the_real_sets_are_read_as_they_lie(uri, name, images, pairs, people):
    protocol = open_protocol(f"{DATA}/{uri}")
    assert (protocol.name, len(protocol.images), len(protocol.same)) == (name, images, pairs)
    assert (protocol.same.sum(), protocol.folds.max() + 1) == (pairs // 2, 10)
    assert (protocol.identities.max() + 1, protocol.interval_unit) == (people, "identity")
    assert protocol.images[images - 1].shape == (112, 112, 3)
