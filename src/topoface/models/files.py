"""Models on disk: a directory with weights and settings, written whole or not at all, and read without trust."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import topoface
from topoface.errors import UserError
from topoface.files import sync
from topoface.models.arcface_torch import load_state_dict_file
from topoface.models.embedding import EmbeddingModel
from topoface.models.registry import configure, restore
from topoface.models.spec import EmbeddingSpec

WEIGHTS, SETTINGS = "model.safetensors", "model.json"
CALIBRATION = (
    "calibration.json"  # lies there once the model is calibrated; a model that takes its place has none
)
_FORMAT = 1
_KEYS = {"format", "topoface", "architecture", "spec", "extra", "weights_sha256", "sha256"}


def save(model: EmbeddingModel, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write a model directory: weights, and what is needed to rebuild and feed the model, as readable JSON.

    Both files are written to a folder beside, which then takes the name; a model that was there before
    is removed after that. A digest of the weights and of the settings lies in the settings, so that
    `load` knows a damaged or changed file.

    Args:
        model: any device, any mode.
        folder: to make, or a model directory to replace.
        extra: further facts to keep, of JSON's types, e.g. where the training data came from.

    Raises:
        UserError: when the folder cannot be written, the disk is full, or the folder holds other things.
    """
    target = Path(folder)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.backbone.state_dict().items()}
    settings = {
        "format": _FORMAT,
        "topoface": topoface.__version__,
        "architecture": {"name": model.name, "args": dataclasses.asdict(model.config)},
        "spec": dataclasses.asdict(model.spec),
        "extra": json.loads(json.dumps(dict(extra or {}), allow_nan=False)),
    }
    settings = json.loads(json.dumps(settings))  # tuples become lists now, as they will be when read
    try:
        _write(weights, settings, target)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the model could not be written ({error})", str(target), "free space or choose another folder"
        ) from error


def load(path: str | Path, *, device: str | torch.device = "cpu") -> EmbeddingModel:
    """A model in evaluation mode from a model directory, or from an arcface_torch state dict (.pt, .pth).

    For the second kind the architecture is read off the names and shapes, see `topoface.models.arcface_torch`.
    Nothing in either is executed.

    Raises:
        UserError: when the path is missing or unreadable, was changed after it was written, is of no known
            architecture, or the device is absent.
    """
    source = Path(path)
    if not source.exists():
        raise UserError(
            "there is no such file or folder", str(source), "give a model directory or a .pt file"
        )
    model = _load_directory(source) if source.is_dir() else load_state_dict_file(source)
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on how it was built
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot use the device {str(device)!r} ({reason})", "device", "use cpu") from error


def _write(weights: Mapping[str, torch.Tensor], settings: dict[str, Any], target: Path) -> None:
    if target.exists():
        foreign = sorted({entry.name for entry in target.iterdir()} - {WEIGHTS, SETTINGS, CALIBRATION})
        if foreign:
            raise UserError(
                f"the folder holds something else ({foreign[0]})",
                str(target),
                "choose a new folder for the model",
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        new, old = beside / "new", beside / "old"
        new.mkdir()
        save_file(dict(weights), new / WEIGHTS)
        settings = settings | {"weights_sha256": _file_digest(new / WEIGHTS)}
        settings["sha256"] = _settings_digest(settings)
        (new / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        for written in (new / WEIGHTS, new / SETTINGS, new):
            sync(written)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            with contextlib.suppress(OSError):
                old.rename(target)
            raise
        sync(target.parent)  # before the old model goes
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _load_directory(folder: Path) -> EmbeddingModel:
    settings = _read_settings(folder / SETTINGS)
    weights_file = folder / WEIGHTS
    try:
        digest = _file_digest(weights_file)
        if digest != settings["weights_sha256"]:
            raise UserError("the weights differ from those saved", str(weights_file), "copy the model again")
        weights = load_file(weights_file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", str(weights_file), "copy the model again") from error
    architecture, spec_fields = settings["architecture"], settings["spec"]
    try:
        config = configure(architecture["name"], architecture["args"])
        spec = EmbeddingSpec(**spec_fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the architecture or spec is malformed ({error})", str(folder / SETTINGS), "save the model again"
        ) from error
    if (spec.dimension, spec.input_size) != (config.dimension, config.input_size):
        raise UserError(
            f"the spec wants {spec.input_size} pixels and embeddings of width {spec.dimension}, "
            f"the backbone {config.input_size} and {config.dimension}",
            str(folder / SETTINGS),
            "save the model again",
        )
    return restore(architecture["name"], config, spec, weights, str(weights_file))


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        inner = path.parent / "model"  # a run directory holds one
        remedy = f"did you mean {inner}?" if (inner / SETTINGS).is_file() else "give a model directory"
        raise UserError(f"cannot be read ({error.strerror})", str(path), remedy) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})", str(path), "copy the model again") from error
    if not isinstance(settings, dict) or settings.get("format") != _FORMAT:
        raise UserError(f"is not of format {_FORMAT}", str(path), "update topoface, or save the model again")
    if settings.keys() != _KEYS or settings["sha256"] != _settings_digest(settings):
        raise UserError("was changed after it was saved", str(path), "copy the model again, do not edit it")
    return settings


def _settings_digest(settings: Mapping[str, Any]) -> str:
    """Of everything but the digest itself, independent of how the JSON is laid out."""
    rest = {key: value for key, value in settings.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
