"""Counts what calls cost, and prints it, or records it: ``python -m tests.cost --record``."""

from __future__ import annotations

import argparse
import json
import sys

from tests.cost.counting import ROUNDS, count_everything, count_here
from tests.cost.limits import PYTHON, Limits


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cost", description=__doc__)
    parser.add_argument(
        "--record", action="store_true", help="write limits.toml, for the Python that runs this"
    )
    parser.add_argument("--count", choices=list(ROUNDS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count:
        json.dump(count_here(args.count), sys.stdout)
        return
    counted = count_everything()
    limits = Limits.read()
    for case in counted:
        for line in limits.compare(case, counted[case]):
            sys.stderr.write(f"{line}\n")
    limits.record(counted)
    if args.record:
        limits.write()
        sys.stderr.write(f"Recorded for Python {PYTHON}.\n")
    else:
        sys.stdout.write(limits.text())


main()
