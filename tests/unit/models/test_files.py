import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import topoface.models.files as files
from topoface.errors import UserError
from topoface.models import build_model, load, save


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_settings_beside_the_weights_can_be_read_by_a_person(tmp_path: Path) -> None:
    save(build_model("iresnet_tiny", dimension=7), tmp_path / "new" / "model", extra={"images": 15124})
    settings = json.loads((tmp_path / "new" / "model" / "model.json").read_text())
    assert settings["architecture"]["name"] == "iresnet_tiny"
    assert settings["architecture"]["args"]["dimension"] == 7
    assert settings["spec"]["template"] == "arcface_112"
    assert settings["extra"] == {"images": 15124}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


def test_saving_again_replaces_the_model(tmp_path: Path) -> None:
    for seed in (0, 1):
        model = build_model("iresnet_tiny", seed=seed)
        save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert torch.equal(loaded.backbone.fc.weight, model.backbone.fc.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("step", ["save_file", "sync"])
def test_a_full_disk_leaves_the_old_model_and_nothing_else(step: str, tmp_path: Path, monkeypatch) -> None:
    save(build_model("iresnet_tiny"), tmp_path / "model")
    before = contents(tmp_path / "model")

    def fail(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, step, fail)
    with pytest.raises(UserError, match=r"model: the model could not be written .*No space left"):
        save(build_model("iresnet_tiny", seed=1), tmp_path / "model")
    assert contents(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_rename_that_fails_halfway_puts_the_old_model_back(tmp_path: Path, monkeypatch) -> None:
    save(build_model("iresnet_tiny"), tmp_path / "model")
    before = contents(tmp_path / "model")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(UserError, match="could not be written"):
        save(build_model("iresnet_tiny", seed=1), tmp_path / "model")
    assert contents(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_things_or_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    (tmp_path / "file").write_text("...")
    for name, reason in (("thesis", "chapter.tex"), ("file", "could not be written")):
        with pytest.raises(UserError, match=reason):
            save(build_model("iresnet_tiny"), tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "..."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_missing_path_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"model\.json: cannot be read"):
        load(tmp_path)
    save(build_model("iresnet_tiny"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load(tmp_path / "model")


def test_an_absent_device_is_refused_in_one_line(tmp_path: Path) -> None:
    save(build_model("iresnet_tiny"), tmp_path / "model")
    absent = "abacus" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match="use cpu") as caught:
        load(tmp_path / "model", device=absent)
    assert "\n" not in str(caught.value)


def rewrite(folder: Path, **changes: object) -> None:
    """Change settings and their digest with them, as somebody would who knows how."""
    path = folder / "model.json"
    settings = json.loads(path.read_text()) | changes
    settings["sha256"] = files._settings_digest(settings)
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "not of format 1"),
        ({"more": 1}, "was changed"),
        ({"architecture": None}, "malformed"),
        ({"architecture": {"name": "iresnet_tiny"}}, "malformed"),
        ({"architecture": {"name": "iresnet_tiny", "args": [1]}}, "malformed|no setting"),
        ({"architecture": {"name": ["a"], "args": {}}}, "malformed"),
        ({"architecture": {"name": "iresnet_huge", "args": {}}}, "no model"),
        ({"architecture": {"name": "iresnet_tiny", "args": {"blocks": [1, 1, 1, 2]}}}, "lacks weights"),
        ({"architecture": {"name": "iresnet_tiny", "args": {"widths": [4, 8, 16, 64]}}}, "has the shape"),
        ({"spec": {"dimension": 32, "size": 3}}, "malformed"),
        ({"spec": {"dimension": 64, "input_size": 28}}, "embeddings of width 64"),
        ({"spec": {"dimension": 32, "input_size": 56}}, "56"),
        ({"weights_sha256": "0"}, "weights differ"),
    ],
)
def test_settings_that_do_not_fit_are_refused_even_with_a_right_digest(
    changes, named, tmp_path: Path
) -> None:
    save(build_model("iresnet_tiny"), tmp_path / "model")
    rewrite(tmp_path / "model", **changes)
    with pytest.raises(UserError, match=named):
        load(tmp_path / "model")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "[" * 100_000, "\udcff"])
def test_settings_that_are_no_json_object_are_refused(text: str, tmp_path: Path) -> None:
    save(build_model("iresnet_tiny"), tmp_path / "model")
    (tmp_path / "model" / "model.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"model\.json"):
        load(tmp_path / "model")


def test_a_loaded_model_does_not_depend_on_its_file_any_more(tmp_path: Path) -> None:
    model = build_model("iresnet_tiny")
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    faces = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    np.testing.assert_array_equal(loaded.embed(faces), model.embed(faces))
