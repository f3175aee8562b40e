"""The example scripts run as they stand."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

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
