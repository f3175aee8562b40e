"""Calibrations on disk: JSON in a model's directory or beside its file, read without trust."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import topoface
from topoface.errors import UserError
from topoface.evaluation.calibration.judging import Calibration
from topoface.evaluation.calibration.threshold import Bars, Threshold
from topoface.evaluation.figures import Figure
from topoface.files import write_text
from topoface.functional.score_calibration import LogisticLine
from topoface.models.files import CALIBRATION

_FORMAT: Final = 1
_DATA: Final = {"protocol", "uri", "fingerprint", "genuine", "impostors", "people", "left_out"}


def place_of(model: str) -> Path:
    """Where a model's calibration lies: in its directory, or beside its file."""
    path = Path(model)
    return path / CALIBRATION if path.is_dir() else path.with_name(f"{path.name}.{CALIBRATION}")


def write(calibration: Calibration, model: str) -> Path:
    """Store it with the model, in place of an older one; returns where.

    Raises:
        UserError: the file cannot be written.
    """
    content = {
        "format": _FORMAT,
        "topoface": topoface.__version__,
        **vars(calibration),
        "thresholds": [
            {
                **vars(t),
                "bars": {name: bar._asdict() for name, bar in t.bars._asdict().items()},
                "honest_far": t.honest_far._asdict(),
                "honest_miss": t.honest_miss._asdict(),
            }
            for t in calibration.thresholds
        ],
        "line": calibration.line._asdict(),
    }
    path = place_of(model)
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def require_calibrated(model: str) -> Path:
    """Where the calibration of this model lies.

    Raises:
        UserError: there is none, or no model.
    """
    path = place_of(model)
    if not Path(model).exists():
        raise UserError("does not exist", model, f"check the path (looked from {Path.cwd()})")
    if not path.is_file():
        raise UserError(f"is not calibrated (no {path})", model, _remedy(model))
    return path


def read(model: str, weights: str) -> Calibration:
    """The calibration stored with a model.

    Args:
        model: path of the model.
        weights: digest of its weights.

    Raises:
        UserError: there is none, it cannot be read, or it is that of other weights.
    """
    path, remedy = require_calibrated(model), _remedy(model)
    try:
        calibration = _from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(path), remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"is no calibration of format {_FORMAT} ({error})", str(path), remedy) from error
    if calibration.weights != weights:
        raise UserError("was made with other weights than the model has now", str(path), remedy)
    return calibration


def _remedy(model: str) -> str:
    return f"run topoface calibrate {model} PROTOCOL"


def _from_json(content: Mapping[str, Any]) -> Calibration:
    if content["format"] != _FORMAT:
        raise ValueError(f"found {content['format']}")
    thresholds = tuple(
        Threshold(
            **{
                **given,
                "bars": Bars(**{name: _figure(bar) for name, bar in given["bars"].items()}),
                "honest_far": _figure(given["honest_far"]),
                "honest_miss": _figure(given["honest_miss"]),
                "genuine_verdicts": tuple(map(float, given["genuine_verdicts"])),
                "impostor_verdicts": tuple(map(float, given["impostor_verdicts"])),
            }
        )
        for given in content["thresholds"]
    )
    line = LogisticLine(**{name: _finite(value) for name, value in content["line"].items()})
    calibration = Calibration(
        thresholds=thresholds,
        line=line,
        **{
            name: content[name] for name in ("weights", "date", "data", "contract", "prior", "far", "quality")
        },
    )
    if not (0 < _finite(calibration.prior) < 1 and line.slope > 0 and thresholds):
        raise ValueError("its prior, slope or thresholds make no sense")
    if calibration.data.keys() != _DATA or any(_finite(t.far) <= 0 for t in thresholds):
        raise ValueError("its data or rates make no sense")
    _finite(calibration.far), _finite(calibration.data["impostors"])
    return calibration


def _figure(given: Mapping[str, Any]) -> Figure:
    return Figure(*(_finite(given[name]) for name in ("value", "low", "high")))


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
