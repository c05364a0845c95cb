"""Run with ``python examples/virtual_power_plant``, or as a module with ``python -m``."""

import sys
from importlib import import_module
from pathlib import Path

if __package__:
    from .main import main
else:
    # Run as a folder, which is no package then: make it one that other processes can import, too.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main = import_module("virtual_power_plant.main").main

if __name__ == "__main__":
    sys.exit(main())
