"""The runner of `make bench-peers`, with programs of its own in place of other libraries."""

import asyncio
import io
import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks import certificates, loops
from benchmarks.peers import __main__ as command
from benchmarks.peers import report, session
from benchmarks.peers.catalogue import MEASURES, OURS, PEERS, Peer
from benchmarks.peers.report import Row

FACTS = {"aiomas": "3", "python": "3.11", "cpu": "a CPU"}
PLAN = (1, 0.01)  # rounds, seconds of each


@pytest.fixture
def peer(tmp_path):
    """Return a function that makes a library of the text of its program."""

    def make(text, measures=("B1",)):
        path = tmp_path / "program.py"
        path.write_text(f"import json, subprocess, sys, time\n{text}\n")
        return Peer("theirs", str(path), measures, None)

    return make


@pytest.fixture
def alone(monkeypatch):
    """Measure without this aiomas, and once: its part has a test of its own."""
    monkeypatch.setattr(command, "OURS", {})
    monkeypatch.setattr(loops, "can_pin", lambda: False)


def measured(peer, folder):
    return asyncio.run(command.measure_peer(peer, Path(sys.executable), folder, PLAN))


def row(measure="B1", name="theirs", **figures):
    return Row(measure, name, pinned=False, **figures)


def test_all_that_the_catalogue_names_is_there():
    for peer in (*PEERS, *OURS.values()):
        assert (session.PROGRAMS / peer.program).is_file()
        assert set(peer.measures) <= set(MEASURES)


def test_libraries_are_known_by_name(capsys):
    assert command.parse(["--only", "rpyc,ray"]).only == ["rpyc", "ray"]
    assert command.parse([]).only == [peer.name for peer in PEERS]
    with pytest.raises(SystemExit):
        command.parse(["--only", "rpyc,nobody"])
    assert "no such library: nobody" in capsys.readouterr().err


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("needs", ["B1", "B7-B1"])
def test_an_agent_is_measured_over_tcp_and_tls(needs, tmp_path):
    certificates.make(tmp_path)
    rows = measured(Peer("theirs", "peer_aiomas.py", (needs,), None), tmp_path)

    assert [(row.measure, row.pinned, row.reason) for row in rows] == [(needs, False, None)]
    assert rows[0].peer_rounds[0] > 0


def test_a_library_and_aiomas_take_turns_on_one_core(tmp_path):
    if not loops.can_pin():
        pytest.skip("processes cannot be kept on one core here")
    before = os.sched_getaffinity(0)
    rows = measured(Peer("theirs", "peer_aiomas.py", ("B4",), None), tmp_path)

    assert os.sched_getaffinity(0) == before
    assert [row.pinned for row in rows] == [True]
    for found in rows:
        assert found.reason is None
        assert len(found.peer_rounds) == PLAN[0]
        assert set(found.our_rounds) == set(OURS)
        assert all(found.ratio(loop) > 0 for loop in OURS)


@pytest.mark.usefixtures("alone")
def test_a_program_that_fails_is_a_row_with_the_reason(peer, tmp_path):
    rows = measured(peer("raise RuntimeError('no such thing')"), tmp_path)

    assert rows
    assert {row.reason for row in rows} == {"RuntimeError: no such thing"}


@pytest.mark.usefixtures("alone")
def test_what_was_measured_before_a_failure_is_kept(peer, tmp_path):
    text = """
print("null", flush=True)  # the address of the server, or that the caller is ready
for line in sys.stdin:
    measure, seconds = json.loads(line)
    if measure != "sequential":
        raise RuntimeError("only sequential")
    print(7.0, flush=True)
"""
    rows = measured(peer(text, ("B1", "B2-64")), tmp_path)

    by_measure = {row.measure: row for row in rows}
    assert by_measure["B1"].peer_rounds == [7.0]
    assert by_measure["B1"].reason is None
    assert by_measure["B2-64"].reason == "RuntimeError: only sequential"


def test_a_program_that_says_nothing_is_not_waited_for(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "START_TIMEOUT", 0.1)

    async def start():
        async with session.session(
            peer("sys.stdin.read()"), Path(sys.executable), "server", tmp_path
        ):
            pass

    with pytest.raises(session.PeerError, match="no answer within"):
        asyncio.run(start())


def test_a_program_that_does_not_end_is_ended_with_what_it_started(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "END_TIMEOUT", 0.1)
    text = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps(child.pid), flush=True)
time.sleep(600)
"""

    async def start():
        async with session.program(peer(text), Path(sys.executable), "call") as program:
            return psutil.Process(await program.answer(30))

    start_time = time.monotonic()
    child = asyncio.run(start())
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
    assert time.monotonic() - start_time < 30


def test_what_cannot_be_installed_has_a_row_for_each_measure():
    peer = next(peer for peer in PEERS if peer.name == "pyzmq")
    rows = command.unavailable(peer, "no network")

    assert {row.measure for row in rows} == set(peer.measures)
    assert all(row.cells()[-1] == "none" for row in rows)
    missing = "pyzmq, no figures for B1, B2-64, B2-1000, B3: no network"
    assert missing in list(report.remarks(rows))


def test_the_table_says_of_each_library_what_a_call_is():
    assert all(peer.does for peer in (*PEERS, *OURS.values()))
    rows = [row("B1", "pyzmq", peer_rounds=[1.0]), row("B1", "ray", reason="no network")]

    named = [line.partition(":")[0] for line in report.remarks(rows)]
    assert named == ["aiomas", "pyzmq", "ray, no figures for B1"]


def test_rows_and_remarks_fit_into_lines_of_100_characters():
    rounds = {"asyncio": [123_456.0], "uvloop": [123_456.0]}
    rows = [
        row(measure, peer.name, peer_rounds=[123_456.0], our_rounds=rounds)
        for peer in PEERS
        for measure in peer.measures
    ]
    with io.StringIO() as text:
        Console(file=text, width=100).print(report.table(rows, FACTS))
        lines = [line for line in text.getvalue().splitlines() if line.startswith("│")]
    assert len(lines) == len(rows)
    assert all(line.count("123,456") == 3 and "…" not in line for line in lines)
    assert all(len(line) <= 100 for line in report.remarks(rows))


def test_the_ratio_is_the_median_of_the_rounds():
    found = row(peer_rounds=[10.0, 100.0, 10.0], our_rounds={"asyncio": [20.0, 100.0, 30.0]})

    assert found.ratio("asyncio") == 2.0
    assert found.ratio("uvloop") is None
    assert found.cells() == [
        "B1 sequential", "all", "theirs", "10", "30", "2.00", "", "",
    ]  # fmt: skip


def test_an_aim_is_reached_or_not():
    rounds = {"asyncio": [160.0], "uvloop": [160.0]}
    rows = [
        row("B2-1000", "pyzmq", peer_rounds=[100.0], our_rounds=rounds),
        row("B2-64", "pyzmq", peer_rounds=[100.0], our_rounds=rounds),
        row("B2-1000", "pyzmq-asyncio", reason="no network"),
    ]

    assert list(report.aims(rows)) == [
        "B2 1000 in flight, asyncio against pyzmq: 1.60, aim 1.5: reached",
        "B2 1000 in flight, uvloop against pyzmq: 1.60, aim 2.0: not reached",
    ]


def test_the_file_and_the_table_have_all_rows_in_the_order_of_the_measures(tmp_path):
    rows = [
        row("B3", reason="no network"),
        row("B1", peer_rounds=[10.0], our_rounds={"asyncio": [20.0], "uvloop": [30.0]}),
    ]
    path = tmp_path / "new" / "results.json"
    report.write(path, rows, FACTS)

    written = json.loads(path.read_text())
    assert written["facts"] == FACTS
    assert [found["measure"] for found in written["rows"]] == ["B1", "B3"]
    assert written["rows"][0]["ratios"] == {"asyncio": 2.0, "uvloop": 3.0}
    assert written["rows"][1]["reason"] == "no network"
    assert report.table(rows, FACTS).row_count == 2


def test_the_documentation_gets_the_same_table_and_where_it_comes_from(tmp_path):
    rows = [
        row("B1", "pyzmq", peer_rounds=[10.0], our_rounds={"asyncio": [20.0], "uvloop": [40.0]}),
        row("B1", "ray", reason="it cannot be had"),
    ]
    names = ("date", "command", "aiomas", "python", "cpu", "cores", "system")
    facts = dict.fromkeys(names, "known")
    report.write_docs(tmp_path / "page", rows, facts)

    text = (tmp_path / "page" / report.INCLUDE).read_text()
    assert text.startswith("Measured on known with `known`:")
    assert "| B1 sequential | all | pyzmq | 10 | 20 | 2.00 | 40 | 4.00 |" in text
    assert "| B1 sequential | all | ray | none |  |  |  |  |" in text
    assert "- ray, no figures for B1: it cannot be had" in text
