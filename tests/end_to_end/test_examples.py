"""The example scripts run as they stand."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

from topoface.models import build_model, save

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_contact_sheet_is_drawn(tmp_path: Path) -> None:
    out = tmp_path / "faces.png"
    command = [
        sys.executable,
        str(EXAMPLES / "draw_synthetic_faces.py"),
        str(out),
        "--identities",
        "2",
        "--images",
        "3",
    ]
    subprocess.run(command, check=True, timeout=120)
    with Image.open(out) as sheet:
        assert sheet.width >= 3 * 112
        assert sheet.height >= 2 * 112


def test_the_scale_of_embeddings_is_reported(tmp_path: Path) -> None:
    save(build_model("iresnet_tiny"), tmp_path / "model")
    pairs = "synthetic:?identities=20&images=4&pairs=100"
    command = [sys.executable, str(EXAMPLES / "embedding_scale.py"), pairs, str(tmp_path / "model")]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    assert "scale 1.000" in done.stdout
