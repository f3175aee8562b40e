"""Template protocols from generated IJB folders: the layout, the figures against their definitions, features and their cache."""

import json
from fractions import Fraction

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.oracles import templates as oracle
from tests.oracles import verification as pairs_oracle
from tests.real_data import DATA, needs_data
from tests.unit.evaluation.faces import embed, face
from tests.unit.evaluation.ijb_folder import POINTS, SHIFT, TURN, ijb_folder
from topoface import cli
from topoface.errors import UserError
from topoface.evaluation import features as made
from topoface.evaluation.alignment import align, similarity
from topoface.evaluation.features import Features, compute_features, model_features, read_features
from topoface.evaluation.figures import TEMPLATE_FARS
from topoface.evaluation.operating_points import points_at_fars
from topoface.evaluation.templates.ijb import is_ijb, open_ijb
from topoface.evaluation.templates.judging import judge_templates
from topoface.evaluation.templates.results import FPIRS, RANKS
from topoface.functional.verification import threshold_at_far


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ijb_folder(tmp_path_factory.mktemp("ijb") / "IJBC")


def drawn_features(n: int, seed: int = 0, noise: float = 3.0) -> Features:
    """Features of five images a person, of unequal length, hard enough that errors occur."""
    rng = np.random.default_rng(seed)
    people = np.repeat(rng.normal(size=(n // 5, 16)), 5, axis=0)
    rows = (people + noise * rng.normal(size=people.shape)) * rng.uniform(0.5, 3, (n, 1))
    return Features(rows=rows.astype(np.float32), origin="drawn")


def test_the_layout_is_read_as_it_is_meant(folder):
    protocol = open_ijb(folder)
    assert (is_ijb(folder), is_ijb(folder / "meta"), is_ijb(folder / "loose_crop")) == (True, True, False)
    assert open_ijb(folder / "meta").fingerprint == protocol.fingerprint
    assert protocol.name == "ijbc"
    assert protocol.template_ids.tolist() == list(range(100, 116))
    assert protocol.templates[:6].tolist() == [100, 100, 100, 101, 101, 102]
    assert protocol.media[:6].tolist() == [0, 1, 1, 2, 3, 10]
    assert (len(protocol.pairs), int(protocol.same.sum())) == (64, 8)
    assert protocol.template_ids[protocol.pairs[1]].tolist() == [100, 103]
    assert [search.name for search in protocol.searches] == ["G1", "G2", "G1+G2"]
    assert [len(search.gallery) for search in protocol.searches] == [4, 2, 6]
    assert protocol.template_ids[protocol.searches[1].gallery].tolist() == [108, 110]
    assert len(protocol.searches[0].probes) == 8
    assert "landmarks" in protocol.alignment


@pytest.mark.parametrize("weighting", ["none", "norm", "detector", "detector+norm"])
def test_every_figure_is_that_of_the_definitions(folder, weighting):
    protocol = open_ijb(folder)
    features = drawn_features(len(protocol.images))
    result = judge_templates(features, protocol, weighting=weighting, bootstrap=30)
    rows = features.rows.astype(np.float64)
    if "norm" not in weighting:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    weights = protocol.detector if "detector" in weighting else None
    units = oracle.pool(rows, protocol.media.tolist(), protocol.templates.tolist(), weights)
    vectors = np.stack([units[label] for label in protocol.template_ids.tolist()])
    scores = [float(vectors[a] @ vectors[b]) for a, b in protocol.pairs]
    assert [point.target for point in result.tar] == list(TEMPLATE_FARS)
    for point in result.tar:
        expected = pairs_oracle.tar_at_far(scores, protocol.same.tolist(), Fraction(point.target))
        assert point.tar.value == pytest.approx(float(expected))
        assert point.far <= point.target
    for search, found in zip(protocol.searches, result.searches, strict=True):
        similarity_ = vectors[search.probes] @ vectors[search.gallery].T
        case = similarity_.tolist(), search.probe_people.tolist(), search.gallery_people.tolist()
        shares = {rank: share.value for rank, share in found.ranks.items()}
        assert shares == {r: pytest.approx(float(oracle.cmc(*case, r))) for r in RANKS}
        assert [point.target for point in found.tpir] == list(FPIRS)
        for point in found.tpir:
            expected = oracle.tpir_at_fpir(*case, Fraction(point.target))
            assert point.tpir.value == pytest.approx(float(expected))
    assert len({round(value, 6) for value in result.summary().values()}) > 3  # the case is not trivial


def test_weightings_differ(folder):
    protocol = open_ijb(folder)
    features = drawn_features(len(protocol.images))
    from topoface.evaluation.templates.judging import template_vectors

    ways = [
        template_vectors(features.rows, protocol, w) for w in ("none", "norm", "detector", "detector+norm")
    ]
    for i, one in enumerate(ways):
        for other in ways[:i]:
            assert np.abs(one - other).max() > 1e-3


def test_a_model_that_knows_the_people_is_perfect_only_after_alignment(folder):
    protocol = open_ijb(folder)
    good = compute_features(embed, protocol.images, flip=False, origin="tiles")
    result = judge_templates(good, protocol)
    assert {v for name, v in result.summary().items() if name != "min_dcf"} == {1.0}
    assert not good.failures
    # Aligned faces are those that were drawn, up to what scaling there and back loses.
    assert np.abs(protocol.images[0].astype(float) - face(0, 0)).mean() < 4


def test_align_is_bilinear_interpolation_at_the_matched_points():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (240, 200, 3), dtype=np.uint8)
    marks = TURN * np.array(POINTS) @ [[0.96, 0.28], [-0.28, 0.96]] + SHIFT + [30, 5]
    a, b = similarity(marks)
    np.testing.assert_allclose(a * (marks @ [1, 1j]) + b, np.array(POINTS) @ [1, 1j], atol=1e-9)
    turned = align(image, marks)
    for x, y in [(50, 60), (30, 40), (80, 90), (56, 56)]:
        z = (x + 1j * y - b) / a
        i, j = int(z.imag), int(z.real)
        v, u = z.imag - i, z.real - j
        patch = image[i : i + 2, j : j + 2].astype(float)
        expected = (1 - v) * ((1 - u) * patch[0, 0] + u * patch[0, 1]) + v * (
            (1 - u) * patch[1, 0] + u * patch[1, 1]
        )
        np.testing.assert_allclose(turned[y, x], expected, atol=1.01)


def test_images_that_fail_are_left_out_and_empty_templates_are_errors(tmp_path):
    folder = ijb_folder(tmp_path / "IJBC", people=16)
    for name in ("2.png", "4.png", "5.png"):  # a frame of template 100; both pictures of 101
        (folder / "loose_crop" / name).write_bytes(b"no image")
    protocol = open_ijb(folder)
    features = compute_features(embed, protocol.images, flip=True, origin="tiles")
    assert [name for name, _ in features.failures] == ["2.png", "4.png", "5.png"]
    result = judge_templates(features, protocol)
    assert result.failed_templates == 1
    assert result.tar[0].tar.value == 15 / 16
    # 15 of 240 impostor pairs are with that template and accepted at every threshold: no FAR below 1 / 16 can be kept.
    assert [point.tar.value for point in result.tar[1:]] == [0.0] * 5
    assert result.searches[0].ranks[1].value == 7 / 8
    assert result.searches[1].tpir[1].tpir.value == 0.0  # that probe is a stranger to G2, and a false alarm
    assert "3 images had no feature" in result.warnings[0]


def test_missing_parts_of_the_layout(tmp_path):
    folder = ijb_folder(tmp_path / "IJBC", images=False)
    features = drawn_features(40)
    (folder / "meta/ijbc_name_5pts_score.txt").unlink()
    protocol = open_ijb(folder)
    assert protocol.alignment == "as stored, 112 x 112"
    with pytest.raises(UserError, match=r"has no scores of a detector .* give --weighting norm"):
        judge_templates(features, protocol)
    (folder / "meta/ijbc_template_pair_label.txt").unlink()
    result = judge_templates(features, open_ijb(folder), weighting="norm")
    assert (result.tar, len(result.searches)) == ((), 3)
    for gallery in (folder / "meta").glob("*.csv"):
        gallery.unlink()
    with pytest.raises(UserError, match="neither"):
        open_ijb(folder)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("face_tid_mid", ("2.png 100 1\n", "2.png 100\n"), r"tid_mid.txt:2: 2 words instead of 3"),
        ("face_tid_mid", ("2.png 100 1\n", "2.png x 1\n"), "no numbers behind '2.png'"),
        ("name_5pts_score", ("2.png", "3.png"), "same images in the same order"),
        ("name_5pts_score", ("67.868", "inf"), "not finite"),
        ("template_pair_label", ("100 101 1\n", "100 101 2\n"), "two templates and 0 or 1"),
        ("template_pair_label", ("100 101 1\n", "100 101\n"), "restore the list"),
        ("template_pair_label", ("100 101 1\n", "999 101 1\n"), "template 999 has no image"),
        ("1N_gallery_G1", ("TEMPLATE_ID", "T"), "begin with TEMPLATE_ID"),
        ("1N_gallery_G1", ("100,subject 0", "100,subject 7"), "template 100 has two people"),
        ("1N_gallery_G1", ("100,subject 0", "x,subject 0"), r"G1.csv:2"),
        ("1N_gallery_G1", ("100,subject 0", f"{10**20},subject 0"), r"G1.csv:2"),
        ("1N_probe_mixed", ("101,subject 0", "901,subject 0"), "template 901 has no image"),
    ],
)
def test_mistakes_in_the_lists_are_named(tmp_path, file, change, said):
    folder = ijb_folder(tmp_path / "IJBC", images=False)
    (path,) = (folder / "meta").glob(f"ijbc_{file}.*")
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(UserError, match=said):
        open_ijb(folder)


def test_points_are_those_of_the_threshold_rule():
    rng = np.random.default_rng(3)
    scores = np.round(rng.normal(size=3000), 2).astype(np.float32)  # many ties
    same = rng.random(3000) < 0.3
    fars = [1e-6, 1e-3, 0.01, 0.5, 1.0]
    for far, point in zip(fars, points_at_fars(scores[same], scores[~same], fars), strict=True):
        expected = threshold_at_far(scores, same, far)
        assert (point.threshold, point.tar.value, point.far) == expected[:3]
        assert (point.false_accepts, point.allowed) == expected[3:]


def test_features_from_disk(tmp_path):
    rows, names = drawn_features(40).rows, [f"{i}.png" for i in range(40)]
    np.save(tmp_path / "a.npy", rows.astype(np.float64))
    save_file({"rows": rows, "scores": rows[:, 0].copy()}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.safetensors"):
        found = read_features(tmp_path / name, names)
        np.testing.assert_array_equal(found.rows, rows)
        assert name in found.origin
    with pytest.raises(UserError, match="a row for each of the 41 images"):
        read_features(tmp_path / "a.npy", [*names, "more"])
    rows[17, 3] = np.nan
    np.save(tmp_path / "nan.npy", rows)
    with pytest.raises(UserError, match="row 17 is not finite"):
        read_features(tmp_path / "nan.npy", names)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.ones((40, 3), dtype=np.int64))
    save_file({"a": rows, "b": rows}, tmp_path / "two.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:100])
    for name in ("objects.npy", "whole.npy", "two.safetensors", "cut.safetensors", "absent.npy"):
        with pytest.raises(UserError, match=name):
            read_features(tmp_path / name, names)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from topoface.models import build_model, save

    path = tmp_path_factory.mktemp("model") / "model"
    save(build_model("iresnet_tiny", dimension=16, seed=0), path)
    return str(path)


def test_features_are_kept_by_content_and_found_again(tmp_path, folder, model, monkeypatch):
    protocol = open_ijb(folder)
    stamps = protocol.images.stamps()
    first = model_features(model, protocol.images, stamps=stamps, cache=tmp_path / "kept")
    assert np.linalg.norm(first.rows, axis=1).std() > 1e-4  # lengths are the model's own
    monkeypatch.setattr(made, "compute_features", lambda *_, **__: pytest.fail("computed again"))
    again = model_features(model, protocol.images, stamps=stamps, cache=tmp_path / "kept")
    np.testing.assert_array_equal(first.rows, again.rows)
    assert "kept from before" in again.origin
    monkeypatch.undo()
    model_features(model, protocol.images, stamps=stamps, cache=tmp_path / "kept", flip=False)
    model_features(model, protocol.images, stamps=[*stamps[1:], "other"], cache=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_another_model_has_another_key_and_the_same_weights_the_same(tmp_path, model):
    from topoface.evaluation.features import weights_digest
    from topoface.models import build_model, load, save

    save(load(model), tmp_path / "copy")
    save(build_model("iresnet_tiny", dimension=16, seed=1), tmp_path / "other")
    own, copy, other = (weights_digest(load(path)) for path in (model, tmp_path / "copy", tmp_path / "other"))
    assert own == copy != other


def test_the_command_judges_templates_from_a_model_and_from_features(tmp_path, folder, model, capsys):
    out, cache = tmp_path / "out.json", tmp_path / "kept"
    assert cli.main(["evaluate", model, str(folder), "--json", str(out), "--cache", str(cache)]) == 0
    said = capsys.readouterr().out
    for name in (
        "tar@1e-06",
        "G1 rank-1",
        "G2 tpir@0.01",
        "G1+G2 rank-10",
        "landmarks",
        "TAR at FAR 1e-06 rests",
    ):
        assert name in said
    (content,) = json.loads(out.read_text())
    assert content["contract"]["alignment"].startswith("five landmarks")
    assert (content["templates"], content["genuine"], content["searches"][0]["strangers"]) == (16, 8, 4)

    protocol = open_ijb(folder)
    features = model_features(model, protocol.images, stamps=[])
    np.save(tmp_path / "mine.npy", features.rows)
    arguments = ["evaluate", str(tmp_path / "mine.npy"), str(folder), "--json", str(out)]
    assert cli.main([*arguments, "--weighting", "detector+norm"]) == 0
    (again,) = json.loads(out.read_text())
    assert (again["tar_at_far"], again["searches"]) == (content["tar_at_far"], content["searches"])
    assert len(list(cache.iterdir())) == 1
    capsys.readouterr()
    drawn = "synthetic:?identities=20&images=2&pairs=20"
    assert cli.main(["evaluate", str(tmp_path / "mine.npy"), drawn]) == 2
    assert "give a row for each of the 30 images" in capsys.readouterr().err


def test_pairs_and_templates_in_one_command_keep_their_order(tmp_path, folder, model, capsys):
    out = tmp_path / "out.json"
    drawn = "synthetic:?identities=20&images=2&pairs=20"
    arguments = ["evaluate", model, str(folder), drawn, "--bootstrap", "0", "--cache", "none"]
    assert cli.main([*arguments, "--json", str(out)]) == 0
    assert [content["name"] for content in json.loads(out.read_text())] == ["ijbc", "synthetic"]
    assert {"accuracy", "G1"} <= set(capsys.readouterr().out.replace("│", " ").split())


def test_a_folder_of_landmarks_may_hold_any_size_but_without_them_faces_must_be_aligned(tmp_path):
    folder = ijb_folder(tmp_path / "IJBC")
    (folder / "meta/ijbc_name_5pts_score.txt").unlink()
    with pytest.raises(UserError, match="none of 40 images can be embedded"):
        compute_features(embed, open_ijb(folder).images, flip=False, origin="tiles")
    (folder / "loose_crop/7.png").unlink()
    with pytest.raises(UserError, match=r"7\.png: cannot be read"):
        open_ijb(folder).images.stamps()


@needs_data
def test_an_onnx_embedder_is_a_model_too(tmp_path, folder, capsys):
    pytest.importorskip("onnxruntime")
    embedder = str(DATA / "models" / "mobilefacenet_insightface.onnx")
    arguments = [str(folder), "synthetic:?identities=20&images=2&pairs=20", "--bootstrap", "0"]
    assert cli.main(["evaluate", embedder, *arguments, "--cache", str(tmp_path)]) == 0
    assert {"accuracy", "G1"} <= set(capsys.readouterr().out.replace("│", " ").split())
    assert len(list(tmp_path.iterdir())) == 1


def test_intervals_hold_the_figures_and_know_their_people(folder):
    protocol = open_ijb(folder)
    assert protocol.people.tolist() == np.repeat(np.arange(8), 2).tolist()
    features = drawn_features(len(protocol.images), noise=1.5)
    result = judge_templates(features, protocol, bootstrap=60)
    for name, figure in result.named().items():
        if name != "min_dcf":  # one impostor pair in ten thousand counts: no interval, and a sentence
            assert figure.low <= figure.value <= figure.high, name
    assert np.isnan(result.pairs.min_dcf.low)
    assert any(warning.startswith("minDCF is lowest where fewer than 10") for warning in result.warnings)
    assert result.searches[0].cmc.shape == (4, 20)
    again = judge_templates(features, protocol, bootstrap=60)
    # Ten false accepts or alarms are wanted where models are compared, too.
    few = {"min_dcf"} | {f"tar@{point.target:g}" for point in result.tar if point.warning}
    few |= {f"{s.name} tpir@{point.target:g}" for s in result.searches for point in s.tpir if point.warning}
    told = {name: tuple(d) for name, d in result.minus(again).items()}
    assert {d for name, d in told.items() if name not in few} == {(0.0, 0.0, 0.0)}
    assert all(np.isnan(told[name][1:]).all() for name in few)
    plain = judge_templates(features, protocol, bootstrap=0)
    assert plain.summary() == result.summary()
    assert all(np.isnan(figure.low) for figure in plain.named().values())
    content = json.loads(json.dumps(plain.to_json(), allow_nan=False))
    assert content["tar_at_far"][0]["tar"] == {"value": plain.tar[0].tar.value, "low": None, "high": None}


def test_people_are_linked_by_genuine_pairs_where_no_gallery_names_them(tmp_path):
    folder = ijb_folder(tmp_path / "IJBC", images=False)
    for gallery in (folder / "meta").glob("*.csv"):
        gallery.unlink()
    assert open_ijb(folder).people.tolist() == np.repeat(np.arange(8), 2).tolist()


def test_no_errors_do_not_make_a_rate_certain(folder):
    protocol = open_ijb(folder)
    result = judge_templates(
        compute_features(embed, protocol.images, flip=False, origin="tiles"), protocol, bootstrap=40
    )
    assert result.tar[0].tar.value == result.searches[0].ranks[1].value == 1.0
    assert 0.5 < result.tar[0].tar.low < 0.7  # Wilson: 8 of 8
    assert result.searches[0].ranks[1].low < 0.7


def test_two_models_on_templates_pairs_and_all_pairs_stand_in_one_report(tmp_path, folder, model, capsys):
    from topoface.models import build_model, save

    save(build_model("iresnet_tiny", dimension=16, seed=1), tmp_path / "other")
    pairs, faces = "synthetic:?identities=20&images=2&pairs=20", "all-pairs:synthetic:?identities=8&images=3"
    page, out = tmp_path / "out.html", tmp_path / "out.json"
    arguments = ["--beside", str(tmp_path / "other"), "--bootstrap", "20", "--cache", "none"]
    command = ["evaluate", model, str(folder), pairs, faces, *arguments, "--report", str(page)]
    assert cli.main([*command, "--json", str(out)]) == 0
    text, said = page.read_text(), " ".join(capsys.readouterr().out.split())
    for words in ("Gallery G1", "CMC.", "DET.", "all pairs of", "minDCF", "k = ", "--beside", "other"):
        assert words in text
    assert "model minus other on ijbc, in points:" in said
    assert [r["name"] for r in json.loads(out.read_text())][:2] == ["ijbc", "synthetic"]
    assert [r["model"] for r in json.loads(out.read_text())][3:] == [str(tmp_path / "other")] * 3
    assert cli.main(["evaluate", model, str(folder), str(folder)]) == 2
    assert "two protocols are called 'ijbc'" in capsys.readouterr().err
    assert cli.main(["evaluate", model, pairs, "--beside", model]) == 2
    assert "names one model twice" in capsys.readouterr().err
