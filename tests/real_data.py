"""Where the shared research data lies, if it does: beside the checkout, or where TOPOFACE_DATA says."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("TOPOFACE_DATA", Path(__file__).parents[2] / "shared" / "data"))

needs_data = pytest.mark.skipif(
    not (DATA / "train" / "train.rec").is_file(),
    reason="the shared research data is not beside the checkout and TOPOFACE_DATA does not name it",
)
