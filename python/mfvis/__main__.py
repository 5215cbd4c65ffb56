"""``python -m mfvis``: the command ``mfvis``, for launchers such as ``torchrun -m mfvis train``."""

import sys

from mfvis.cli import main

if __name__ == "__main__":
    sys.exit(main())
