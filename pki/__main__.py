"""``python -m pki``."""

from pki.cli import main

main()
