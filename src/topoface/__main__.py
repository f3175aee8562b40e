"""The command ``topoface``, and ``python -m topoface``."""

import os
import sys


def run() -> int:
    """The command line, with its imports: CTRL-C while these last is no traceback either. Returns the exit code."""
    try:
        from topoface.cli import main

        code = main()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            from topoface.training.distributed import leave

            leave(code)
    except KeyboardInterrupt:
        print("topoface: interrupted", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(run())
