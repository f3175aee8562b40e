"""Features on disk: each image gets its own row whatever the order, zeros are failures, and pairs take them as all else does."""

import json
import os

import numpy as np
import pytest

from tests.unit.evaluation.faces import embed, lfw_folder
from topoface import cli
from topoface.data import open_source
from topoface.errors import UserError
from topoface.evaluation import features as made
from topoface.evaluation import open_protocol, verify
from topoface.evaluation.all_pairs.judging import open_labelled
from topoface.evaluation.features import compute_features, read_features
from topoface.evaluation.manifests.reading import open_manifest
from topoface.evaluation.pairs.stored import judge_features
from topoface.models.encoder import write_embeddings


@pytest.fixture
def lfw(tmp_path, monkeypatch):
    """Faces in ``lfw``, their embeddings as ``topoface embed`` writes them, and a list of templates in the other order."""
    monkeypatch.chdir(tmp_path)
    source = open_source(lfw_folder(tmp_path / "lfw", noise=90))
    rows = embed(np.stack([source[i][0] for i in range(len(source))]))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [source.describe(i).removeprefix(f"{source.uri}/") for i in range(len(source))]
    write_embeddings(tmp_path / "rows.safetensors", rows, fingerprint=source.fingerprint(), names=names)
    lines = [f"{name},t{i},{name.split('/')[0]}" for i, name in enumerate(names)]
    (tmp_path / "lfw" / "mine.csv").write_text("\n".join(["image,template,person", *reversed(lines[2:])]))
    return tmp_path


def test_rows_are_found_by_the_names_of_the_images(lfw):
    images = open_manifest("lfw/mine.csv").images
    found = read_features(lfw / "rows.safetensors", images.names)
    expected = compute_features(embed, images, flip=False, origin="tiles").rows
    np.testing.assert_allclose(
        found.rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6
    )


@pytest.mark.parametrize("names", [["another.jpg"], []])
def test_rows_of_unknown_images_are_refused_in_one_line(lfw, names, capsys):
    write_embeddings(lfw / "b.safetensors", np.ones((38, 4), np.float32), fingerprint="x", names=names)
    assert cli.main(["evaluate", "b.safetensors", "lfw/mine.csv"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        "no row named 'Person_T/Person_T_0002.jpg'" in said if names else "does not say which image" in said
    )
    assert "topoface embed" in said


def test_a_command_embeds_and_another_judges_pairs_and_templates_by_it(lfw, capsys):
    from topoface.models import build_model, save

    save(build_model("iresnet_tiny", dimension=16, seed=0), lfw / "model")
    assert cli.main(["embed", "model", "lfw", "out.safetensors"]) == 0
    options = ["lfw", "lfw/mine.csv", "--bootstrap", "0", "--cache", "none", "--json"]
    assert cli.main(["evaluate", "out.safetensors", *options, "rows.json"]) == 0
    assert cli.main(["evaluate", "model", *options, "model.json", "--no-flip", "--weighting", "none"]) == 0
    rows, model = (json.loads((lfw / name).read_text()) for name in ("rows.json", "model.json"))
    assert rows[0]["auc"] == pytest.approx(model[0]["auc"], abs=1e-6)
    assert rows[0]["contract"]["flip"] == "as the features were made"
    assert "out.safetensors" in rows[0]["contract"]["features"]
    for one, other in zip(rows[1]["tar_at_far"], model[1]["tar_at_far"], strict=True):
        assert one["threshold"] == pytest.approx(other["threshold"], abs=1e-5)


def test_pairs_take_a_row_for_each_image_of_the_list(lfw):
    protocol = open_protocol("lfw")
    made_here = compute_features(embed, protocol.images, flip=False, origin="tiles")
    np.save(lfw / "a.npy", made_here.rows)
    judged = judge_features(read_features(lfw / "a.npy", protocol.images.names), protocol, bootstrap=0)
    np.testing.assert_allclose(
        judged.scores, verify(embed, protocol, flip=False, bootstrap=0).scores, atol=1e-6
    )


def test_a_row_of_zeros_is_a_failure_and_told(lfw):
    protocol = open_protocol("lfw")
    rows = compute_features(embed, protocol.images, flip=False, origin="tiles").rows
    rows[3] = 0
    np.save(lfw / "a.npy", rows)
    features = read_features(lfw / "a.npy", protocol.images.names)
    assert features.failures == ((protocol.images.names[3], "its row in a.npy is zero"),)
    judged = judge_features(features, protocol, bootstrap=0)
    assert (judged.failures, "1 image could not be judged" in judged.warnings[0]) == (features.failures, True)
    failed = (protocol.pairs == 3).any(axis=1)
    assert set(judged.scores[failed]) <= {-2.0, 2.0}
    np.save(lfw / "a.npy", np.zeros_like(rows))
    with pytest.raises(UserError, match="holds zeros only"):
        read_features(lfw / "a.npy", protocol.images.names)


def test_the_stamp_of_a_set_follows_the_time_of_change_and_its_fingerprint_does_not(lfw, monkeypatch):
    monkeypatch.setattr("topoface.data.folder._HASHED_FILES", 2)  # the others' content is not looked at
    before = open_labelled("lfw")
    image = lfw / "lfw/Person_B/Person_B_0001.jpg"
    data = bytearray(image.read_bytes())
    data[-20] ^= 1
    image.write_bytes(data)
    os.utime(image, ns=(1, 1))
    after = open_labelled("lfw")
    assert before.fingerprint == after.fingerprint
    assert before.stamps() != after.stamps()
    assert open_source("lfw?least_images=2").stamp() != before.stamp


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "lfw"], "lfw: is a folder"),
        (["--report", "lfw"], "lfw: is a folder"),
        (["--cache", "lfw/pairs.txt"], "lfw/pairs.txt: cannot be made (File exists)"),
        ([], "--cache: this user has no home folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_before_anything_is_embedded(
    lfw, options, said, monkeypatch, capsys
):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(made.Path, "home", no_home)
    monkeypatch.setattr(made, "open_embed", lambda *_: pytest.fail("embedded"))
    assert cli.main(["evaluate", "m.onnx", "lfw/mine.csv", *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"topoface: error: {said}")


def test_files_are_written_though_nobody_reads_what_is_printed(lfw, monkeypatch):
    class ClosedError(Exception):
        """Stands for a pipe that its reader left."""

    def left(*_):
        raise ClosedError

    monkeypatch.setattr("topoface.cli.evaluate.print_judged", left)
    with pytest.raises(ClosedError):
        cli.main(["evaluate", "rows.safetensors", "lfw", "--bootstrap", "0", "--json", "out.json"])
    assert json.loads((lfw / "out.json").read_text())[0]["name"] == "lfw"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "m.onnx", "x" * 300 + ".csv"], "File name too long"),
        (["evaluate", "m.onnx", "nul.csv"], "cannot be read (embedded null byte)"),
        (["doctor", "m.onnx", "locked"], "locked/lists: Permission denied; check the name and the rights"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(lfw, arguments, said, monkeypatch, capsys):
    def locked(path):
        raise PermissionError(13, "Permission denied", f"{path}/lists")

    (lfw / "nul.csv").write_bytes(b"image,template,person\na\0.png,t,p\nb.png,u,p\nc.png,v,q")
    if arguments[0] == "doctor":
        monkeypatch.setattr("topoface.evaluation.pairs.opening.is_rfw", locked)
    assert cli.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("topoface: error: ")
    assert said in lines[-1]
