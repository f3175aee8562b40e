"""``python -m topoface`` is the command ``topoface``."""

import sys

from topoface.cli import main

if __name__ == "__main__":
    sys.exit(main())
