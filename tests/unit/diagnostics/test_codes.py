"""The pages on codes: figures by counting, faces of the right people, and a run that can read its codes or cannot."""

import json
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
from topoface.diagnostics.codes.decode import decoded
from topoface.diagnostics.codes.measured import crowds, levels, vector_pairs
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


def test_collapsed_centers_of_rare_identities_are_seen() -> None:
    rng = np.random.default_rng(0)
    images = np.repeat([1, 10], 60)
    vectors = oracle.unit(rng.normal(size=(120, 32)))
    centers = oracle.unit(rng.normal(size=(120, 32)) + np.where(images == 1, 2, 0)[:, None])
    rare, common = crowds(vectors, centers, images, seed=0)
    assert (rare.name, common.name) == ("1", "8 to 15")
    assert rare.centers[0] > 0.5 > abs(common.centers[0])
    assert abs(rare.vectors[0]) < 0.1
    assert rare.centers[1] > common.centers[1]


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
    assert cli.main([*arguments[:3], "--count", "0", "--out", str(out)]) == 2
    assert (
        cli.main([*arguments[:3], "--source", "synthetic:?identities=3&images=2&seed=9", "--out", str(out)])
        == 2
    )
    assert "has no identity of" in capsys.readouterr().err


def coded_run(folder: Path, **head: Any) -> Path:
    """A few steps: what is read off an untrained run is as right or wrong as off any."""
    recipe = tiny_recipe(
        data={"train": FACES},
        head={
            "class_path": "IdentityCode",
            "init_args": {"table": str(folder / "codes"), "scale": 16.0, **head},
        },
        methods=[],
        training={"steps": 4, "batch_size": 12, "log_every": 4, "checkpoint_every": 100},
    )
    train(recipe, run_dir=folder / "run", quiet=True)
    return folder / "run"


@pytest.mark.parametrize("prefix_conditioned", [False, True])
def test_decoding_finds_the_identity_whose_tokens_are_likeliest(
    tmp_path: Path, prefix_conditioned: bool
) -> None:
    built(tmp_path / "codes")
    run = open_run(str(coded_run(tmp_path, prefix_conditioned=prefix_conditioned)))
    head: Any = run.head
    head.connect(run.source)
    table = open_table(tmp_path / "codes")
    found = decoded(run, head, np.arange(0, 72, 5), 12)
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


def test_decode_command_writes_its_page_and_its_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built(tmp_path / "codes")
    run, out = coded_run(tmp_path), tmp_path / "decoded"
    assert cli.main(["codes", "decode", str(run), "--count", "3", "--width", "12", "--out", str(out)]) == 0
    assert "Of 72 training images" in capsys.readouterr().out
    numbers = json.loads((out / "decoded.json").read_text())
    listed = (out / "decoded_samples.csv").read_text().splitlines()
    assert len(listed) == 1 + numbers["doubtful"]
    assert numbers["right"]["first"]["value"] == pytest.approx(1 - numbers["doubtful"] / 72)
    assert numbers["right"]["beam"]["value"] == 1  # the beam holds everybody
    assert numbers["prefixes"][-1] == pytest.approx(numbers["right"]["first"]["value"])
    assert cli.main(["codes", "decode", str(trained(tmp_path / "other", methods=())), "--out", str(out)]) == 2
    assert "reads no codes" in capsys.readouterr().err
