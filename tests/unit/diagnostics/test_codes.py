"""The pages on codes: figures by counting, faces of the right people, and a run that can read its codes or cannot."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.oracles import code_vectors as oracle
from tests.unit.diagnostics.trained import FACES, trained
from tests.unit.training.tiny import tiny_recipe
from topoface import cli
from topoface.codes.build import BuildSettings, build
from topoface.codes.table import CodeTable, open_table
from topoface.data import open_source
from topoface.diagnostics.codes.centers import compare_centers
from topoface.diagnostics.codes.crowds import collapse, crowds
from topoface.diagnostics.codes.decoded import Decoded, decoded
from topoface.diagnostics.codes.measured import levels, vector_pairs
from topoface.diagnostics.opening import open_run
from topoface.training import train


def built(folder: Path, **changes: Any) -> CodeTable:
    settings = {"encoder": "random", "dimension": 16, "kind": "rq", "shape": "4x3", **changes}
    return build(open_source(FACES), folder, BuildSettings(**settings))


def test_prefixes_and_pairs_are_those_that_counting_finds(tmp_path: Path) -> None:
    table = built(tmp_path / "codes")
    codes = table.codes.tolist()
    for length, level in enumerate(levels(table), 1):
        prefixes = [tuple(code[:length]) for code in codes]
        assert sorted(level.sizes) == sorted(prefixes.count(prefix) for prefix in set(prefixes))
        assert level.shared == sum(prefixes.count(prefix) > 1 for prefix in prefixes)
    pairs = vector_pairs(table, seed=0)
    vectors = table.unit_vectors(np.arange(12))
    found = []
    for i in range(12):
        for j in range(i + 1, 12):
            same = [a == b for a, b in zip(codes[i], codes[j], strict=True)]
            found.append((float(vectors[i] @ vectors[j]), same.index(False)))
    np.testing.assert_allclose(pairs.cosines, [cosine for cosine, _ in found], atol=1e-6)
    assert pairs.shared.tolist() == [shared for _, shared in found]


RARE_AND_COMMON = np.repeat([1, 10], 60)


def directions(seed: int, *, pushed: np.ndarray | None = None) -> np.ndarray:
    """Of 120 identities, those that are ``pushed`` towards one another."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(120, 32))
    return oracle.unit(rows if pushed is None else rows + np.where(pushed, 2, 0)[:, None])


def test_collapsed_centers_of_rare_identities_are_seen() -> None:
    rare, common = RARE_AND_COMMON == 1, RARE_AND_COMMON > 1
    spread = directions(0)
    found = crowds(spread, directions(1, pushed=rare), RARE_AND_COMMON, seed=0)
    assert [crowd.name for crowd in found] == ["1", "10"]
    assert found[0].centers.means()[0] > 0.5 > abs(found[1].centers.means()[0])
    assert abs(found[0].vectors.means()[0]) < 0.1
    assert found[0].centers.means()[1] > found[1].centers.means()[1]
    assert collapse(found).found
    other_way = collapse(crowds(spread, directions(1, pushed=common), RARE_AND_COMMON, seed=0))
    assert (other_way.found, other_way.absent) == (False, True)
    neither = collapse(crowds(spread, directions(1), RARE_AND_COMMON, seed=0))
    assert (neither.found, neither.absent) == (False, False)


def test_likes_of_which_the_code_vectors_know_are_not_taken_for_collapsed_centers() -> None:
    rare = RARE_AND_COMMON == 1
    alike = collapse(crowds(directions(0, pushed=rare), directions(1, pushed=rare), RARE_AND_COMMON, seed=0))
    assert alike.centers.low > 0
    assert not alike.found


def test_nearest_and_any_two_are_those_that_counting_finds() -> None:
    rows, images = directions(3), np.full(120, 4)
    (crowd,) = crowds(rows, directions(4), images, seed=0)
    assert (crowd.name, crowd.identities) == ("4", 120)
    nearest = [max(float(a @ b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    two = [float(rows[i] @ rows[j]) for i in range(120) for j in range(i)]
    assert crowd.vectors.means() == pytest.approx((np.mean(two), np.mean(nearest)), abs=1e-6)


def test_report_is_written_with_faces_and_with_the_centers_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built(tmp_path / "codes")
    run = trained(tmp_path / "run", methods=())
    out = tmp_path / "report"
    arguments = [
        "codes",
        "report",
        str(tmp_path / "codes"),
        "--run",
        str(run),
        "--count",
        "2",
        "--out",
        str(out),
    ]
    assert cli.main(arguments) == 0
    assert "12 identities have codes of 4 x 3 tokens" in capsys.readouterr().out
    page, numbers = (out / "codes.html").read_text(), json.loads((out / "codes.json").read_text())
    assert "Codes that begin with" in page
    assert "Beside learned class centers" in page
    assert page.count("data:image/jpeg") >= 4
    assert [entry["tokens"] for entry in numbers["prefixes"]] == [1, 2, 3]
    assert sum(numbers["token_use"][0]) == 12
    assert [crowd["images"] for crowd in numbers["crowds"]] == ["6"]
    assert numbers["collapse"] is None, "all have six images"
    assert cli.main([*arguments[:3], "--count", "0", "--out", str(out)]) == 2
    assert (
        cli.main([*arguments[:3], "--source", "synthetic:?identities=3&images=2&seed=9", "--out", str(out)])
        == 2
    )
    assert "has no identity of" in capsys.readouterr().err


PAIRS = "synthetic:?identities=20&images=4&seed=0&first=100000&pairs=100"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few steps."""
    return trained(tmp_path_factory.mktemp("encoder") / "run", methods=()) / "model"


def test_report_judges_the_encoder_on_pairs_as_evaluate_does(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built(tmp_path / "codes", encoder=str(encoder))
    command = ["codes", "report", str(tmp_path / "codes"), "--count", "1", "--out", str(tmp_path / "report")]
    assert cli.main([*command, "--pairs", PAIRS]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "report/codes.json").read_text())["encoder"]
    assert cli.main(["evaluate", str(encoder), PAIRS, "--json", str(tmp_path / "judged.json")]) == 0
    (judged,) = json.loads((tmp_path / "judged.json").read_text())
    assert found["accuracy"] == pytest.approx(judged["accuracy"])
    assert f"The encoder tells one person from two in {judged['accuracy']['value']:.1%}" in out
    assert "How good the encoder is" in (tmp_path / "report/codes.html").read_text()

    capsys.readouterr()
    assert cli.main([*command, "--encoder", str(encoder)]) == 2
    assert "none are named" in capsys.readouterr().err
    shutil.copytree(encoder, tmp_path / "other")
    (tmp_path / "other/more").touch()
    assert cli.main([*command, "--pairs", PAIRS, "--encoder", str(tmp_path / "other")]) == 2
    assert "is not the encoder that" in capsys.readouterr().err
    built(tmp_path / "drawn")
    assert cli.main([*command[:2], str(tmp_path / "drawn"), "--pairs", PAIRS]) == 2
    assert "has vectors that no encoder made" in capsys.readouterr().err


def test_stored_embeddings_are_judged_through_the_encoder_that_made_them(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(tmp_path / "rows.safetensors")
    assert cli.main(["embed", str(encoder), FACES, rows]) == 0
    built(tmp_path / "codes", encoder=rows)
    command = ["codes", "report", str(tmp_path / "codes"), "--count", "1", "--out", str(tmp_path / "report")]
    assert cli.main([*command, "--pairs", PAIRS]) == 2
    assert "name it with --encoder" in capsys.readouterr().err
    assert cli.main([*command, "--pairs", PAIRS, "--encoder", str(encoder)]) == 0


def coded_run(folder: Path, head: str = "IdentityCode", faces: str = FACES, **settings: Any) -> Path:
    """A few steps: what is read off an untrained run is as right or wrong as off any."""
    recipe = tiny_recipe(
        data={"train": faces},
        head={
            "class_path": head,
            "init_args": {"table": str(folder / "codes"), "scale": 16.0, **settings},
        },
        methods=[],
        training={"steps": 4, "batch_size": 12, "log_every": 4, "checkpoint_every": 100},
    )
    train(recipe, run_dir=folder / "run", quiet=True)
    return folder / "run"


def test_centers_of_a_head_with_frozen_centers_are_the_code_vectors(tmp_path: Path) -> None:
    table = built(tmp_path / "codes")
    run = coded_run(tmp_path, head="Composed", centers="frozen")
    (crowd,) = compare_centers(table, str(run), 0).crowds
    np.testing.assert_allclose(crowd.centers.nearest, crowd.vectors.nearest, atol=1e-6)
    np.testing.assert_allclose(crowd.centers.cosines, crowd.vectors.cosines, atol=1e-6)


def test_groups_of_a_long_tail_made_by_chance_are_said_to_be_alike(tmp_path: Path) -> None:
    table = built(tmp_path / "codes")
    by_chance = compare_centers(
        table, str(coded_run(tmp_path, "Composed", f"{FACES}&most_images=6,2,1", centers="frozen")), 0
    )
    assert by_chance.thinned
    assert [crowd.name for crowd in by_chance.crowds] == ["1 to 6"]
    assert "was drawn at random" in by_chance.section().text
    by_nature = replace(by_chance, thinned=False).section().text
    assert "of another source" in by_nature
    assert "drawn at random" not in by_nature


@pytest.mark.parametrize("prefix_conditioned", [False, True])
def test_decoding_finds_the_identity_whose_tokens_are_likeliest(
    tmp_path: Path, prefix_conditioned: bool
) -> None:
    built(tmp_path / "codes")
    run = open_run(str(coded_run(tmp_path, prefix_conditioned=prefix_conditioned)))
    head: Any = run.head
    table = open_table(tmp_path / "codes")
    found = decoded(run.model, head, run.source, np.arange(0, 72, 5), 12)
    codes = torch.from_numpy(table.tokens(np.arange(12)))
    images = torch.from_numpy(np.stack([run.source[i][0] for i in range(0, 72, 5)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        embeddings = run.model(images)
        for i, embedding in enumerate(embeddings):
            repeated = embedding.expand(12, -1)
            log_p = head.logits(repeated, codes).log_softmax(2).gather(2, codes[..., None])[..., 0].sum(1)
            assert found.found[i].tolist() == log_p.argsort(descending=True, stable=True).tolist()
            assert found.likelihood[i] == pytest.approx(float(log_p.max()), abs=1e-4)
            assert found.own[i] == pytest.approx(float(log_p[found.rows[i]]), abs=1e-4)
    assert ((found.doubt == 0) == (found.found[:, 0] == found.rows)).all()


def test_a_label_that_stands_alone_is_doubted_before_those_of_a_hard_person() -> None:
    own = np.array([-9.0, -9.5, -8.5, -1.0, -1.0, -6.0, -7.0])
    found = Decoded(
        positions=np.arange(7),
        rows=np.array([0, 0, 0, 1, 1, 1, 2]),
        found=np.array([[3], [3], [3], [1], [1], [3], [3]]),
        likelihood=np.full(7, -0.5),
        own=own,
        tokens=np.zeros((7, 2), np.bool_),
    )
    assert found.doubtful().tolist() == [5, 1, 0, 6, 2]
    np.testing.assert_allclose(found.oddness, [0, 0.75, -0.75, -2.5, -2.5, 5, 0])


def test_decode_command_writes_its_page_and_its_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built(tmp_path / "codes")
    run, out = coded_run(tmp_path), tmp_path / "decoded"
    assert cli.main(["codes", "decode", str(run), "--count", "3", "--width", "12", "--out", str(out)]) == 0
    assert "Of 72 training images" in capsys.readouterr().out
    assert "most of these doubts are about itself" in (out / "decoded.html").read_text()
    numbers = json.loads((out / "decoded.json").read_text())
    listed = (out / "decoded_samples.csv").read_text().splitlines()
    assert len(listed) == 1 + numbers["doubtful"]
    assert numbers["right"]["first"]["value"] == pytest.approx(1 - numbers["doubtful"] / 72)
    assert numbers["right"]["beam"]["value"] == 1  # the beam holds everybody
    assert numbers["prefixes"][-1] == pytest.approx(numbers["right"]["first"]["value"])
    held_out = ["--source", "synthetic:?identities=12&images=8&seed=0", "--samples", "10"]
    assert cli.main(["codes", "decode", str(run), *held_out, "--out", str(out)]) == 0
    assert "Of 10 images the likeliest" in capsys.readouterr().out
    strangers = ["--source", "synthetic:?identities=14&images=2&seed=0"]
    assert cli.main(["codes", "decode", str(run), *strangers, "--out", str(out)]) == 2
    assert cli.main(["codes", "decode", str(trained(tmp_path / "other", methods=())), "--out", str(out)]) == 2
    assert "reads no codes" in capsys.readouterr().err
