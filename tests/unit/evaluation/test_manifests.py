"""Manifests of templates and searches: read as meant, judged as the definitions say, mistakes named."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests.oracles import searches as oracle
from tests.unit.evaluation.faces import face, jpeg
from topoface import cli
from topoface.errors import UserError
from topoface.evaluation.features import Features
from topoface.evaluation.manifests.reading import is_manifest, open_manifest
from topoface.evaluation.templates.judging import judge_templates
from topoface.evaluation.templates.results import FPIRS, RANKS
from topoface.functional.draws import generator

HEADER = "image,template,person,role"
TINY = ["g.png,G,ann,gallery", "p.png,P,ann,probe", "q.png,Q,eve,probe", "d.png,D,,distractor"]


def manifest(path, lines, header=HEADER):
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def a_search(seed=0, people=12, distractors=130, templates=3):
    """Lines of a search of persons with several templates, some of several images and media; the last people are strangers."""
    rng = np.random.default_rng(seed)
    lines, listed, roles = [], [], {}

    def add(label, person, role, images):
        roles[label] = (person or label, role)
        for k in range(images):
            medium = f"m{k // 2}" if images > 2 else ""
            listed.append((label, medium or f"{label}-{k}"))
            lines.append(f"{label}_{k}.png,{label},{medium},{person},{role}")

    for p in range(people):
        enrolled = p < people - 4
        for k in range(templates if templates and enrolled else 0):
            add(f"g{p}.{k}", f"p{p}", "gallery", int(rng.integers(1, 5)))
        for k in range(3):
            add(f"q{p}.{k}", f"p{p}", "probe", 1)
    for d in range(distractors):
        add(f"d{d}", "" if d % 3 else f"other {d // 9}", "distractor", 1)
    return lines, listed, roles


def features_of(listed, roles, seed=1, noise=1.6, ties=False):
    rng = np.random.default_rng(seed)
    people = {person: rng.normal(size=8) for person, _ in dict.fromkeys(roles.values())}
    rows = np.stack([people[roles[label][0]] + noise * rng.normal(size=8) for label, _ in listed])
    if ties:
        rows = np.sign(rows)  # few directions: many equal cosines
    return Features(rows=rows.astype(np.float32), origin="drawn")


def unit_vectors(features, protocol):
    from topoface.evaluation.templates.judging import template_vectors

    return template_vectors(features.rows, protocol, "norm")


# The mean is rounded to float32 once more: only equal people tie there, not equal sums.
@pytest.mark.parametrize(
    ("fusion", "ties"), [("pool", False), ("pool", True), ("max", False), ("max", True), ("mean", False)]
)
def test_every_figure_at_every_size_is_that_of_the_definition(tmp_path, fusion, ties):
    lines, listed, roles = a_search()
    protocol = open_manifest(manifest(tmp_path / "s.csv", lines, "image,template,medium,person,role"))
    features = features_of(listed, roles, ties=ties)
    result = judge_templates(features, protocol, weighting="norm", fusion=fusion, bootstrap=0).searches[0]
    labels = sorted(roles)
    exact = oracle.pooled(features.rows, listed)
    # Float32 vectors of templates, so that equal cosines are equal on both sides.
    vectors = dict(zip(labels, unit_vectors(features, protocol), strict=True))
    assert max(np.abs(vectors[label] - exact[label]).max() for label in labels) < 1e-6
    if fusion == "pool":  # as if each person had one template in the first place
        owner = [roles[t][0] if roles[t][1] == "gallery" else t for t, _ in listed]
        merged = oracle.pooled(features.rows, list(zip(owner, [m for _, m in listed], strict=True)))
        roles = {o: roles[t] for o, (t, _) in zip(owner, listed, strict=True)}
        vectors = {o: vectors.get(o, merged[o].astype(np.float32)) for o in roles}
        fusion = "max"  # of one
    order = [t for t in labels if t.startswith("d")]
    order = [order[i] for i in generator(0, "distractors").permutation(len(order))]
    assert [size.distractors for size in result.sizes] == [0, 10, 100, 130]
    assert [size.gallery for size in result.sizes] == [8, 18, 108, 138]
    for size in result.sizes:
        found = oracle.lists(vectors, roles, fusion, order[: size.distractors])
        assert size.rank1.value == pytest.approx(float(oracle.rank_share(found, 1)))
        for fpir, figure in size.fnir.items():
            assert figure.value == pytest.approx(float(oracle.fnir(found, Fraction(fpir))))
    assert {r: f.value for r, f in result.ranks.items()} == {
        r: pytest.approx(float(oracle.rank_share(found, r))) for r in RANKS
    }
    np.testing.assert_allclose(result.cmc[1], [float(oracle.rank_share(found, r)) for r in range(1, 21)])
    assert [1 - p.tpir.value for p in result.tpir] == [
        pytest.approx(float(oracle.fnir(found, Fraction(f)))) for f in FPIRS
    ]
    assert result.ranks[1].value < result.sizes[0].rank1.value < 1  # the case is not trivial


@pytest.mark.parametrize("ties", [False, True])
def test_without_gallery_each_other_template_in_turn_is_the_mate(tmp_path, ties):
    lines, listed, roles = a_search(templates=0, distractors=40)
    lines, listed = lines[2:], listed[2:]  # the first has one template left, and no mate
    del roles["q0.0"], roles["q0.1"]
    protocol = open_manifest(manifest(tmp_path / "s.csv", lines, "image,template,medium,person,role"))
    features = features_of(listed, roles, ties=ties, noise=1.0)
    result = judge_templates(features, protocol, weighting="norm", bootstrap=20).searches[0]
    assert (result.mated, result.strangers, result.gallery) == (11 * 6, 1, 41)
    labels = sorted(roles)
    vectors = dict(zip(labels, unit_vectors(features, protocol), strict=True))
    order = [t for t in labels if t.startswith("d")]
    order = [order[i] for i in generator(0, "distractors").permutation(len(order))]
    assert [size.gallery for size in result.sizes] == [11, 41]
    for size in result.sizes:
        found = oracle.lists(vectors, roles, "max", order[: size.distractors])
        assert size.rank1.value == pytest.approx(float(oracle.rank_share(found, 1)))
        assert size.fnir[0.1].value == pytest.approx(float(oracle.fnir(found, Fraction(0.1))))
        assert size.rank1.low <= size.rank1.value <= size.rank1.high
    assert 0 < result.ranks[1].value < 1


def test_the_order_of_the_lines_changes_no_figure(tmp_path):
    lines, listed, roles = a_search()
    features = features_of(listed, roles)
    order = np.random.default_rng(5).permutation(len(lines))
    header = "image,template,medium,person,role"
    one = open_manifest(manifest(tmp_path / "a.csv", lines, header))
    two = open_manifest(manifest(tmp_path / "b.csv", [lines[i] for i in order], header))
    mixed = Features(rows=features.rows[order], origin="drawn")
    left, right = (
        judge_templates(f, p, weighting="norm", bootstrap=30) for f, p in ((features, one), (mixed, two))
    )
    assert json.dumps(left.to_json()["searches"]) == json.dumps(right.to_json()["searches"])


def test_what_has_no_feature_finds_nobody_and_is_found_by_nobody(tmp_path):
    lines = [
        "a,A,ann,gallery",
        "b,B,bob,gallery",
        "p,P,ann,probe",
        "q,Q,bob,probe",
        "r,R,eve,probe",
        "d,D,,distractor",
    ]
    protocol = open_manifest(manifest(tmp_path / "s.csv", lines))
    rows = np.eye(6, dtype=np.float32)[[0, 1, 0, 1, 2, 3]]

    def searched(*broken):
        kept = rows.copy()
        kept[list(broken)] = 0
        features = Features(rows=kept, origin="")
        return judge_templates(features, protocol, weighting="norm", bootstrap=0).searches[0]

    def figures(*broken):
        found = searched(*broken)
        return found.ranks[10].value, found.tpir[0].tpir.value

    assert figures() == (1, 1)
    assert figures(0) == (0.5, 0.5)  # ann is not in the gallery, though she should be
    assert figures(0, 1) == (0, 0)
    assert figures(2) == (0.5, 0.5)
    assert figures(4) == (1, 0)  # a stranger who fails is a false alarm
    assert figures(5) == (1, 1)
    rows[2] = [
        -0.4,
        -0.8,
        0,
        0,
        0.1,
        0,
    ]  # less alike than nobody: even so a distractor without feature is before no mate
    assert searched().ranks[1].value == 0.5
    assert searched(5).ranks[1].value == 1


def test_without_roles_all_templates_are_compared_or_those_that_are_listed(tmp_path):
    lines = [f"{t}{k}.png,{t},{t[0]}" for t in ("a1", "a2", "b1", "c1") for k in range(2)]
    path = tmp_path / "t.csv"
    protocol = open_manifest(manifest(path, lines, "Image, Template, Person"))
    assert (len(protocol.pairs), int(protocol.same.sum()), protocol.searches) == (6, 1, ())
    manifest(tmp_path / "t_pairs.csv", ["a1,a2,1", "b1,c1,0"], "template1,template2,same")
    protocol = open_manifest(str(path))
    assert protocol.pairs.tolist() == [[0, 1], [2, 3]]
    assert protocol.same.tolist() == [True, False]
    manifest(tmp_path / "t_pairs.csv", ["a1,a2,0"], "template1,template2,same")
    with pytest.raises(UserError, match=r"t_pairs.csv:2: same is '0'"):
        open_manifest(str(path))
    manifest(tmp_path / "t_pairs.csv", ["a1,x"], "template1,template2")
    with pytest.raises(UserError, match=r"t_pairs.csv:2: template 'x' has no image"):
        open_manifest(str(path))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [*TINY, "x.png,G,bob,gallery"],
            r"s.csv:6: template 'G' is 'bob gallery' here and 'ann gallery' on line 2",
        ),
        ([*TINY, "x.png,G,ann,probe"], "one person and one role"),
        ([*TINY, "g.png,X,ann,probe"], "image 'g.png' is probe and gallery"),
        ([*TINY, "x.png,X,eve,distractor"], "'eve' is a distractor here and a probe on line 4"),
        ([*TINY, "x.png,X,ann,mate"], "role is 'mate'"),
        ([*TINY, "x.png,X,,probe"], "has no person"),
        ([*TINY, ",X,ann,probe"], "has no image"),
        ([*TINY, "x.png,X,ann"], "3 fields under 4 names"),
        (TINY[:1], "has no probe"),
        (TINY[1:3], "nothing to search in"),
        (TINY[2:], "no probe shows a person of the gallery"),
        ([*TINY[1:], "p.png,X,ann,probe"], "image 'p.png' is probe 'X' and probe 'P'"),
        ([], "lists no image"),
        (["a.png,A,ann,", "b.png,B,bob,"], "0 genuine and 1 impostor pairs"),
    ],
)
def test_mistakes_are_named(tmp_path, lines, said):
    path = manifest(tmp_path / "s.csv", lines)
    assert is_manifest(path)
    with pytest.raises(UserError, match=said):
        open_manifest(path)


def test_what_is_no_manifest_is_left_to_others(tmp_path):
    assert not is_manifest(manifest(tmp_path / "pairs.csv", [], "path1,path2,same"))
    assert not is_manifest(str(tmp_path / "absent.csv"))
    assert not is_manifest("synthetic:?identities=3")
    with pytest.raises(UserError, match="has no column 'person'"):
        open_manifest(manifest(tmp_path / "s.csv", [], "image,template"))


def test_the_command_judges_a_manifest_with_images_beside_it_elsewhere_or_in_a_zip(tmp_path, capsys):
    import zipfile

    from topoface.models import build_model, save

    save(build_model("iresnet_tiny", dimension=16, seed=0), tmp_path / "model")
    faces = tmp_path / "faces"
    faces.mkdir()
    lines = []
    for person in range(4):
        for k, role in enumerate(("gallery", "gallery", "probe") if person < 3 else ("probe",) * 3):
            (faces / f"{person}_{k}.jpg").write_bytes(jpeg(person, k))
            lines.append(f"{person}_{k}.jpg,{person}.{k},person {person},{role}")
    for d in range(12):
        Image.fromarray(face(50 + d, 0)).save(faces / f"d{d}.png")
        lines.append(f"d{d}.png,d{d},,distractor")
    manifest(faces / "s.csv", lines)
    manifest(tmp_path / "far.csv", lines)
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for path in faces.iterdir():
            archive.write(path, f"faces/{path.name}")
    seen = []
    model, page = str(tmp_path / "model"), tmp_path / "out.html"
    options = ["--fusion", "mean", "--cache", "none", "--json", str(tmp_path / "out.json")]
    for uri, more in (
        (faces / "s.csv", ["--bootstrap", "20", "--report", str(page)]),
        (f"{faces}::{tmp_path / 'far.csv'}", ["--bootstrap", "0"]),
        (f"{tmp_path / 'faces.zip'}::{faces / 's.csv'}", ["--bootstrap", "0"]),
    ):
        assert cli.main(["evaluate", model, str(uri), *options, *more]) == 0
        (content,) = json.loads((tmp_path / "out.json").read_text())
        seen.append([size["rank1"]["value"] for size in content["searches"][0]["sizes"]])
        assert content["contract"]["several templates of a person in a gallery"] == "mean: of their scores"
    assert seen[0] == seen[1] == seen[2]
    assert [size["gallery"] for size in content["searches"][0]["sizes"]] == [3, 13, 15]
    assert "gallery rank-1 of 13" in " ".join(capsys.readouterr().out.split())
    for words in ("12 of them distractors", "Larger galleries."):
        assert words in page.read_text()
    (faces / "d3.png").unlink()
    assert cli.main(["evaluate", model, str(faces / "s.csv"), *options]) == 2
    assert "d3.png: cannot be read" in capsys.readouterr().err
