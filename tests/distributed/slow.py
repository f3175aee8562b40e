"""ArcFace that takes its time while a file says so: lets a test see a run in the middle."""

import os
import time
from pathlib import Path
from typing import Any

from topoface.heads import ArcFace, ClassStatistics

BRAKE = "TEST_BRAKE"  # environment variable: path of a file


class Slow(ArcFace):
    """A second a step while the file is there."""

    def forward(self, *args: Any, **kwargs: Any) -> ClassStatistics:
        brake = os.environ.get(BRAKE)
        if brake and Path(brake).exists():
            time.sleep(1)
        return super().forward(*args, **kwargs)
