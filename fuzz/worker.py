"""The process in which one target is fuzzed, until libFuzzer ends it."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "fuzz"
LIMITS = ("-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", "-detect_leaks=0", "-reload=0")
"""Bytes and seconds of one input, MiB of the process."""


def main() -> None:
    """Fuzz the target that the command line names, with flags of libFuzzer."""
    import atheris  # noqa: PLC0415 - not there on every system

    with atheris.instrument_imports(include=["aiomas"]):
        from fuzz.targets import TARGETS  # noqa: PLC0415 - loads what is instrumented

    logging.disable(logging.CRITICAL)  # each input is worth a warning
    target = TARGETS[sys.argv.pop(1)]

    def take(data: bytes) -> None:
        target.run(data)

    # Not a temporary file: libFuzzer ends the process, and nobody would remove it.
    tokens = CACHE / f"{target.name}.dict"
    tokens.parent.mkdir(parents=True, exist_ok=True)
    tokens.write_text("".join(_quoted(token) + "\n" for token in target.tokens))
    # libFuzzer starts itself again for a merge: by its own name, through a shell.
    itself = f"{shlex.quote(sys.executable)} -m fuzz.worker {target.name}"
    atheris.Setup([itself, *sys.argv[1:], f"-dict={tokens}"], take)
    atheris.Fuzz()


def _quoted(token: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in token) + '"'


if __name__ == "__main__":
    main()
