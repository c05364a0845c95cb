"""Run with ``python examples/virtual_power_plant``, or as a module with ``python -m``."""

import sys
from pathlib import Path

if not __package__:
    # Run as a folder, which is no package then: make it one that other processes can import, too.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __package__ = "virtual_power_plant"

from .main import main

if __name__ == "__main__":
    sys.exit(main())
