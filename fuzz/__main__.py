"""Try inputs that libFuzzer makes up.

python -m fuzz                        all targets, ten minutes altogether
python -m fuzz --seconds 60           a minute altogether
python -m fuzz connection             one target
python -m fuzz json --save            and keep, in fuzz/corpus, the new inputs that led further
python -m fuzz json --replay FILE     run one input; needs no fuzzer

Exit codes: 0, nothing was found; 1, there is a finding, whose input was written to the path that is
printed; 2, the fuzzer is not here (0 where the variable CI is set, as there is none to install for
this system).
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fuzz.worker import CACHE, LIMITS

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("json", "msgpack", "msgpack-blosc", "connection")  # without loading what is fuzzed
DEFAULT_SECONDS = 600.0
GRACE = 60.0
"""Seconds that a process may take beyond its time: to start, and to end its last input."""
MERGE_TIMEOUT = 600.0

EXIT_FINDING = 1
EXIT_NO_FUZZER = 2


@dataclass
class Result:
    """What came of one target."""

    name: str
    inputs: int
    corpus: int
    findings: list[Path]
    failure: str = ""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="?", choices=NAMES, help="one target; all by default")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="for all together")
    parser.add_argument("--save", action="store_true", help="keep new inputs in fuzz/corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this input only")
    arguments = parser.parse_args(argv)
    if arguments.replay is not None:
        if arguments.target is None:
            parser.error("--replay needs the name of a target")
        return _replay(arguments.target, arguments.replay)
    if importlib.util.find_spec("atheris") is None:
        print(  # noqa: T201
            f"atheris is not installed (it has no wheel for Python {sys.version.split()[0]} on "
            f"{sys.platform}, or the group `fuzz` is missing): nothing was fuzzed"
        )
        return 0 if os.environ.get("CI") else EXIT_NO_FUZZER
    names = NAMES if arguments.target is None else (arguments.target,)
    results = [_fuzz(name, arguments.seconds / len(names)) for name in names]
    if arguments.save:
        for name in names:
            _save(name)
    _summarise(results)
    return EXIT_FINDING if any(r.findings or r.failure for r in results) else 0


def _replay(name: str, path: Path) -> int:
    from fuzz.targets import TARGETS  # noqa: PLC0415 - a fuzzed one is loaded in its own process

    logging.disable(logging.CRITICAL)
    TARGETS[name].run(path.read_bytes(), measure=True)
    print(f"{name} stands {path}")  # noqa: T201
    return 0


def _fuzz(name: str, seconds: float) -> Result:
    """Fuzz in a process of its own: if that crashes, it is a finding, too."""
    finds, findings = CACHE / "corpus" / name, CACHE / "findings" / name
    for folder in (finds, findings):
        folder.mkdir(parents=True, exist_ok=True)
    corpus = ROOT / "fuzz" / "corpus" / name
    before = set(findings.iterdir())
    started = time.time()
    print(f"=== {name}: {seconds:.0f} s", flush=True)  # noqa: T201
    output, failure = _libfuzzer(
        name,
        f"-max_total_time={max(1, round(seconds))}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        str(finds),
        *([str(corpus)] if corpus.is_dir() else []),
        timeout=seconds + GRACE,
    )
    # A second run may find the same input again, in a file that was there.
    found = sorted(
        path
        for path in findings.iterdir()
        if path not in before or path.stat().st_mtime >= started - 1
    )
    if failure:
        sys.stdout.write(output[-8000:])
    # The counts of the last progress line, for a process that has died before the sum at its end.
    counts = re.findall(r"^#(\d+)\s.*? corp: (\d+)/", output, re.MULTILINE)
    tried, kept = counts[-1] if counts else (0, 0)
    total = re.search(r"stat::number_of_executed_units:\s+(\d+)", output)
    return Result(
        name, int(total[1] if total else tried), int(kept), found, "" if found else failure
    )


def _libfuzzer(name: str, *flags: str, timeout: float) -> tuple[str, str]:
    """Return the output of a process, and what is wrong with it, if anything."""
    command = [sys.executable, "-m", "fuzz.worker", name, *LIMITS, *flags]
    try:
        process = subprocess.run(  # noqa: S603 - ourselves
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        output = exc.stdout or b""
        text = output if isinstance(output, str) else output.decode(errors="replace")
        return text, f"the process did not end within {timeout:.0f} s"
    failure = f"the process ended with {process.returncode}" if process.returncode else ""
    return process.stdout, failure


def _save(name: str) -> None:
    """Add to the corpus those of the new inputs that reach what none of it reaches."""
    corpus, finds = ROOT / "fuzz" / "corpus" / name, CACHE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    before = len(list(corpus.iterdir()))
    # Without counters: how often the same lines ran is not worth a file.
    flags = "-merge=1", "-use_counters=0"
    output, failure = _libfuzzer(name, *flags, str(corpus), str(finds), timeout=MERGE_TIMEOUT)
    if failure:
        print(f"{name}: cannot save: {failure}\n{output[-2000:]}")  # noqa: T201
    print(f"{name}: {len(list(corpus.iterdir())) - before} new inputs saved")  # noqa: T201


def _summarise(results: list[Result]) -> None:
    print(f"\n{'target':<15} {'inputs':>10} {'corpus':>7} {'findings':>9}")  # noqa: T201
    for result in results:
        print(  # noqa: T201
            f"{result.name:<15} {result.inputs:>10,} {result.corpus:>7} {len(result.findings):>9}"
        )
    for result in results:
        for path in result.findings:
            print(f"FOUND: python -m fuzz {result.name} --replay {path.relative_to(ROOT)}")  # noqa: T201
        if result.failure:
            print(f"FAILED: {result.name}: {result.failure}, and no input was written")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
