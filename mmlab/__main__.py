"""``python -m mmlab``."""

import sys

from mmlab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
