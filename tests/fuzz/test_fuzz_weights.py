"""Hundreds of damaged weight files: each loads or is refused by a UserError, nothing runs, nothing hangs."""

import io
import json
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import topoface.models.files as files
from tests.fuzz.mutations import mutate
from topoface.errors import UserError
from topoface.models import build_model, load, save

CASES = 120
SPARE_MIB = 600  # the largest file here has 3 MiB of weights


@pytest.fixture(scope="module")
def state_dict_file() -> bytes:
    weights = build_model("mobilefacenet", dimension=8).backbone.state_dict()
    halves = {key: value.half().contiguous() for key, value in weights.items()}
    file = io.BytesIO()
    torch.save({"state_dict": halves}, file)
    return file.getvalue()


def loads(path: Path) -> bool:
    """Whether it loaded; a UserError of one line is the only other way to end."""
    start, message = time.process_time(), ""
    try:
        load(path)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert time.process_time() - start < 20
    return not message


def run(write: Callable[[np.random.Generator], Path], cases: int = CASES) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = sum(loads(write(np.random.default_rng(case))) for case in range(cases))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < SPARE_MIB * 1024
    return loaded


def test_damaged_state_dict_files_are_refused(state_dict_file: bytes, tmp_path: Path) -> None:
    def write(rng: np.random.Generator) -> Path:
        (tmp_path / "x.pt").write_bytes(mutate(state_dict_file, rng))
        return tmp_path / "x.pt"

    assert run(write) < CASES / 4, "damage went unnoticed"


def test_damaged_pickles_with_right_checksums_reach_the_reader_and_are_refused(
    state_dict_file: bytes, tmp_path: Path
) -> None:
    with zipfile.ZipFile(io.BytesIO(state_dict_file)) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))

    def write(rng: np.random.Generator) -> Path:
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, mutate(content, rng) if name == pickled else content)
        return tmp_path / "x.pt"

    run(write)


def test_damaged_files_of_the_old_format_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"conv_sep.layers.0.weight": torch.zeros(3)}, file, _use_new_zipfile_serialization=False)

    def write(rng: np.random.Generator) -> Path:
        (tmp_path / "x.pt").write_bytes(mutate(file.getvalue(), rng))
        return tmp_path / "x.pt"

    assert run(write) == 0


@pytest.mark.parametrize("forged", [False, True], ids=["as they are", "with forged digests"])
def test_damaged_model_directories_are_refused(forged: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(build_model("iresnet_tiny"), folder)
    intact = {path.name: path.read_bytes() for path in folder.iterdir()}

    def write(rng: np.random.Generator) -> Path:
        for name, content in intact.items():
            (folder / name).write_bytes(content)
        victim = folder / ("model.json" if rng.random() < 0.5 else "model.safetensors")
        victim.write_bytes(mutate(intact[victim.name], rng))
        if forged:
            forge(folder)
        return folder

    loaded = run(write)
    assert forged or loaded < CASES / 10, "damage went unnoticed"


def forge(folder: Path) -> None:
    """Digests that fit the damaged files, where the settings are still an object."""
    try:
        settings = json.loads((folder / "model.json").read_bytes())
        settings["weights_sha256"] = files._file_digest(folder / "model.safetensors")
        settings["sha256"] = files._settings_digest(settings)
        (folder / "model.json").write_text(json.dumps(settings))
    except (ValueError, TypeError):
        pass
