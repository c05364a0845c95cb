"""The command that measures: some rows and a curve, in no time, with figures worth nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.loops import LOOPS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(120)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def positive(value):
    return value > 0


def test_rows_and_a_curve_are_measured_and_written(tmp_path):
    only = "B1,B4,B5,B7-1-unpinned,agents"
    done = run("--only", only, "--output", str(tmp_path), "--docs", str(tmp_path / "docs"))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "results.json").read_text())
    found = {(row["id"], row["loop"]) for row in content["rows"]}
    for name in ("B1", "B4", "B7-1-unpinned"):
        assert {(name, loop) for loop in LOOPS} <= found
    assert {name for name, _ in found if name.startswith("B5")} == {
        "B5-rate",
        "B5-size",
        "B5-called",
    }
    for row in content["rows"]:
        assert all(map(positive, row["figures"].values()))
        assert all(map(positive, row["ratios"].values()))
        assert row["what"] in done.stdout  # in one line
    assert "aims are met" in done.stdout
    assert {"date", "command", "cpu", "cores", "python", "msgpack"} <= content["facts"].keys()

    for folder in (tmp_path, tmp_path / "docs"):
        for name in ("agents.svg", "agents-memory.svg"):
            assert ET.parse(folder / name).getroot().tag.endswith("svg")
    assert "| B1 |" in (tmp_path / "docs" / "results.inc").read_text()


def test_clusters_and_connections_are_measured(tmp_path):
    done = run("--only", "B6,mesh,containers,connections", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "results.json").read_text())
    assert {row["id"] for row in content["rows"]} == {
        "B6-ready",
        "B6-memory",
        "mesh-rate",
        "mesh-memory",
        "mesh-each",
    }
    for row in content["rows"]:
        assert all(map(positive, row["figures"].values()))
        assert row["what"] in done.stdout
    assert {curve["name"] for curve in content["curves"]} == {
        "containers",
        "connections",
        "connections-memory",
    }


def test_what_is_not_there_cannot_be_asked_for(tmp_path):
    done = run("--only", "B9", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "B2-64" in done.stderr
    assert list(tmp_path.iterdir()) == []
