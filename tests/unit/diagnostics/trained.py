"""Runs of seconds on drawn faces, for the diagnostics that look at a run."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.unit.training.tiny import tiny_recipe
from topoface.training import train

FACES = "synthetic:?identities=12&images=6&seed=0"


def trained(folder: Path, *, methods: Any = ("TopoFR",), data: str = FACES, head: str = "ArcFace") -> Path:
    """Train 24 steps in batches of 16 into ``folder``: some of the 72 images are then right and some wrong."""
    recipe = tiny_recipe(
        data={"train": data},
        head={"class_path": head, "init_args": {"scale": 16.0}},
        methods=[{"class_path": name} for name in methods],
        training={"steps": 24, "batch_size": 16, "log_every": 12, "checkpoint_every": 100},
    )
    with patch(
        "topoface.training.judging.report_is_possible", return_value=False
    ):  # drawing one takes longer
        train(recipe, run_dir=folder, quiet=True)
    return folder
