"""``python -m topoface`` is the command ``topoface``."""

import os
import sys

from topoface.cli import main

if __name__ == "__main__":
    code = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from topoface.training.distributed import leave

        leave(code)
    sys.exit(code)
