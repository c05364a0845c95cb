"""Each program in `examples/` runs, says what its reader should see, and has nothing to complain.

A new example needs an entry in `SAYS`: lines (regular expressions) that it prints, in this order.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TIME_LIMIT = 50
"""Seconds for one example, less than a test may take."""

SAYS = {
    "hello_world": [
        r"Ada lives at tcp://127\.0\.0\.1:\d+/0",
        *(rf"Ada says for the {count}\. time: Hello, world!" for count in (1, 2, 3)),
    ],
    "calling_agents": [
        r"ShopProxy\('tcp://127\.0\.0\.1:\d+/0'\) asks for 5",
        r"ShopProxy\('tcp://127\.0\.0\.1:\d+/0'\) asks for 3",
        r"ShopProxy\('tcp://127\.0\.0\.1:\d+/1'\) asks for 4",
        r"Customer\('tcp://127\.0\.0\.1:\d+/1'\) bought 2 x tea for 6",
        r"No coffee: KeyError: 'coffee'",
    ],
    "channel": [
        r"server: received 'cya'",
        r"server: received 'bad'",
        r"server: received 'ohai'",
        r"client: got 'OHAI'",
        r"client: refused, ValueError: that is no nice thing to say",
        r"client: got 'CYA'",
        r"client: was asked 'how are you\?'",
        r"server: the client is fine",
    ],
    "rpc_callbacks": [
        r"client: I am subscriber number 1",
        r"client: Oldenburg has 13\.5 degrees now",
        r"server: Proxy\(.*\) answered 'thanks'",
        r"client: Lisbon has 24\.0 degrees now",
        r"server: Proxy\(.*\) answered 'thanks'",
    ],
    "numpy_codec": [
        r"analyst: got 1440 values of float64 in the shape \(24, 60\)",
        r"caller: got Statistic\(count=1440, mean=0\.[45]\d*, largest=1\.0\)",
    ],
    "clocks": [
        r"15:00:00  green: put into the water",
        r"15:00:00  black: put into the water",
        r"15:01:00  green: half of the time is over",
        r"15:02:00  black: half of the time is over",
        r"15:02:00  green: ready",
        r"15:04:00  black: ready",
        r"5 minutes took \d\.\d seconds",
    ],
    "tls": [
        r"The vault is at tcp://127\.0\.0\.1:\d+/0",
        r"With a certificate of our authority: gold",
        r"With a certificate of another authority: SSLCertVerificationError",
    ],
    "cluster_hello": [
        r"\d+ containers run; this process has the id \d+",
        r"process \d+ found \d+ primes",
        r"There are 2262 primes below 20000",
    ],
    "cluster_tls": [
        r"One desk is at tcp://127\.0\.0\.1:\d+/0",
        r"It was called by spiffe://plant/driver",
        r"The other one was called by spiffe://plant/localhost",
        r"The visitor was refused: HandshakeError",
        r"The authority has signed: spiffe://plant/visitor",
        r"The authority has signed: spiffe://plant/driver",
        r"The authority has signed: spiffe://plant/localhost",
    ],
    "cluster_restart": [
        r"counted: 15",
        r"The container is killed",
        r"event: container 0 died: Container 0 \(pid \d+\) was killed by SIGKILL",
        r"event: container 0 restarting",
        r"event: container 0 restarted",
        r"counted: 20",
    ],
    "cluster_placement": [
        r"container 0 has 10 agents",
        r"container 1 has 10 agents",
        r"loads of the neighbourhoods: 10\.0 35\.0 60\.0 85\.0",
    ],
}


def run_example(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        pytest.fail(f"not done after {TIME_LIMIT} s\n{stdout}{stderr}")
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def assert_says(ran: subprocess.CompletedProcess[str], expected: list[str]) -> None:
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    lines = iter(ran.stdout.splitlines())
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern}\n{ran.stdout}"


@pytest.mark.parametrize("name", SAYS)
def test_example(name, tmp_path):
    if name == "numpy_codec":
        pytest.importorskip("numpy")

    ran = run_example(EXAMPLES / f"{name}.py", folder=tmp_path)

    assert_says(ran, SAYS[name])
    assert not list(tmp_path.iterdir())


def test_cluster_examples_run_in_a_cluster_that_a_command_makes(tmp_path):
    command = ("-m", "aiomas.cli", "cluster", "run")
    hello = EXAMPLES / "cluster_hello.py"
    placement = EXAMPLES / "cluster_placement.py"

    first = run_example(*command, f"{hello}:main", "-n", "2", "--", "3000", folder=tmp_path)
    second = run_example(*command, f"{placement}:main", "-n", "3", folder=tmp_path)

    assert_says(first, [r"2 containers run; .*", r"There are 430 primes below 3000"])
    assert_says(second, [r"container 0 has 10 agents", r"container 2 has 5 agents", r"loads.*"])


def test_power_plant(tmp_path):
    options = ["--agents", "20", "--containers", "2", "--out", str(tmp_path)]

    ran = run_example("-m", "examples.virtual_power_plant", *options, folder=ROOT)

    assert_says(
        ran,
        [
            r"agents +20 .*",
            r"containers +2",
            r"connections +mutual TLS",
            r"messages +[\d,]+",
            r"seconds +[\d.]+",
            r"distance before +[\d,.]+ kWh",
            r"distance after +[\d,.]+ kWh \([\d.]+% less\)",
            rf"picture +{re.escape(str(tmp_path))}/result\.svg",
        ],
    )
    assert (tmp_path / "result.svg").read_text(encoding="utf-8").lstrip().startswith("<")


def test_every_example_is_tested():
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    packages = {path.parent.name for path in EXAMPLES.glob("*/__main__.py")}

    assert programs == set(SAYS)
    assert packages == {"virtual_power_plant"}


def test_numpy_example_says_that_numpy_is_missing(tmp_path):
    (tmp_path / "numpy.py").write_text("raise ImportError", encoding="utf-8")
    command = (
        "import runpy, sys; sys.path.insert(0, '.'); "
        f"runpy.run_path({str(EXAMPLES / 'numpy_codec.py')!r}, run_name='__main__')"
    )

    ran = run_example("-B", "-c", command, folder=tmp_path)

    assert_says(ran, [r"skipped: this example needs NumPy \(pip install 'aiomas\[numpy\]'\)"])


@pytest.mark.parametrize(
    ("stdout", "stderr", "returncode"),
    [("other\n", "", 0), ("b\na\n", "", 0), ("a\nb\n", "oops\n", 0), ("a\nb\n", "", 1)],
)
def test_an_example_that_says_something_else_is_found(stdout, stderr, returncode):
    ran = subprocess.CompletedProcess([], returncode, stdout, stderr)

    with pytest.raises(AssertionError):
        assert_says(ran, ["a", "b"])
