"""The example on tokenisers runs, and finds what it is there to show."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "compare_tokenisers.py"


def test_tokenisers_rank_by_what_their_tokens_tell() -> None:
    command = [sys.executable, str(EXAMPLE), "--identities", "300", "--shape", "7x3"]
    said = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    told = {kind: float(share) for kind, share in re.findall(r"^(\w+) .*?([\d.]+)%", said, re.MULTILINE)}
    assert told["rq"] > told["arbitrary"] > told["random"]
