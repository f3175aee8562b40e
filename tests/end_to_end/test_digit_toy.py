"""The digit toy in short: the released form shrinks, the scale-free paired one aligns, dose by dose, at a price."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from topoface.errors import UserError

pytest.importorskip("sklearn")
SCRIPT = Path(__file__).parents[2] / "examples" / "digit_toy.py"
STEPS, SEED = 120, 0


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digit_toy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclass looks for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figures(toy: ModuleType) -> dict[str, Any]:
    digits = toy.load_digits()
    rows = ("none", "release", "ratio-0.1", "ratio-0.3", "ratio-1")
    return {name: toy.run(toy.ROWS[name], SEED, digits, steps=STEPS) for name in rows}


def test_the_released_form_meets_its_own_loss_by_shrinking_while_the_structure_gets_worse(figures):
    none, release = figures["none"], figures["release"]
    assert release.sorted < none.sorted / 15
    assert release.norm < none.norm / 2.5
    assert release.overlap < none.overlap - 0.03
    assert release.paired > 1.55 * none.paired


def test_the_scale_free_paired_form_aligns_dose_by_dose_without_shrinking(figures):
    none, low, middle, high = (figures[name] for name in ("none", "ratio-0.1", "ratio-0.3", "ratio-1"))
    assert low.paired < 0.9 * none.paired
    assert middle.paired < 0.75 * low.paired
    assert high.paired < 0.4 * middle.paired
    assert none.overlap + 0.03 < middle.overlap
    assert middle.overlap + 0.08 < high.overlap
    assert min(low.norm, middle.norm, high.norm) > 0.9 * none.norm


def test_a_strong_alignment_costs_verification_and_no_accuracy(figures):
    assert figures["ratio-1"].tar < figures["none"].tar - 0.15
    assert all(row.accuracy > 0.94 for row in figures.values())


def test_the_script_prints_a_row(toy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--seeds", "1", "--rows", "none"])
    toy.main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("| none | 0.9")


def test_without_scikit_learn_one_line_says_what_to_install(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match="pip install"):
        toy.load_digits()
