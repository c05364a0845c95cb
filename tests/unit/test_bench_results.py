"""Results of benchmarks: medians, ratios and aims, and how they are shown."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.plan import Plan
from benchmarks.results import Aim, Result
from benchmarks.rows import ROWS
from benchmarks.svg import Curve

FACTS = {
    "date": "2026-01-02 03:04 UTC",
    "command": "python -m benchmarks --only B1",
    "cpu": "a processor",
    "cores": 2,
    "system": "Linux 6",
    "python": "3.11.7 (CPython)",
    "aiomas": "3.0",
    "msgpack": "1.2",
    "uvloop": None,
    "seconds": 12,
}


@pytest.fixture
def result():
    rounds = {"aiomas": [100.0, 10.0, 120.0], "P": [200.0, 10.0, 200.0]}
    return Result("B1", "calls", "asyncio", True, "calls/s", rounds, [Aim(0.5, "P")])


def test_the_median_of_the_rounds_counts(result):
    assert result.figures == {"aiomas": 100.0, "P": 200.0}


def test_a_ratio_is_that_of_a_round(result):
    assert result.ratios == {"P": pytest.approx(0.6)}  # of 0.5, 1 and 0.6


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (Aim(0.6, "P"), True),
        (Aim(0.61, "P"), False),
        (Aim(100.0), True),
        (Aim(101.0), False),
        (Aim(100.0, at_most=True), True),
        (Aim(99.0, at_most=True), False),
    ],
)
def test_an_aim_is_compared_with_the_ratio_or_the_figure(result, aim, met):
    result.aims = [aim]
    assert result.as_json()["aims"][0]["met"] is met
    assert [line[-1] for line in report.lines(result)] == ["yes" if met else "no"]


def test_all_aims_have_to_be_met(result):
    result.aims = [Aim(0.1, "P"), Aim(0.9, "P")]
    assert [line[-2:] for line in report.lines(result)] == [[">= 0.1, >= 0.9", "no"]]


def test_without_an_aim_there_is_no_verdict(result):
    result.aims = []
    assert [line[-2:] for line in report.lines(result)] == [["", ""]]


def test_each_baseline_has_a_line_with_its_own_aim(result):
    result.rounds["B"] = [100.0, 100.0, 100.0]
    result.aims = [Aim(0.5, "P"), Aim(1.5, "B")]
    assert list(report.lines(result)) == [
        ["B1", "calls", "asyncio", "one", "100 /s", "P", "200 /s", "0.60", ">= 0.5", "yes"],
        ["", "", "", "", "", "B", "100 /s", "1.00", ">= 1.5", "no"],
    ]


def test_an_aim_of_the_figure_itself_is_in_the_first_line(result):
    result.rounds["B"] = [100.0, 100.0, 100.0]
    result.aims = [Aim(450.0, at_most=True)]
    assert [line[-2:] for line in report.lines(result)] == [["<= 450 /s", "yes"], ["", ""]]


def test_a_figure_without_a_baseline_is_a_line():
    alone = Result("B6", "memory", "", None, "B", {"aiomas": [7.0]})
    assert list(report.lines(alone)) == [["B6", "memory", "", "", "7 B", "", "", "", "", ""]]


def test_the_table_ends_with_notes_and_with_the_aims_that_are_missed(result):
    result.note = "a note"
    result.aims = [Aim(0.5, "P"), Aim(0.7, "P"), Aim(200.0)]
    other = Result("B2", "calls", "", None, "calls/s", {"aiomas": [1.0]}, note="a note")
    assert list(report.remarks([result, other])) == [
        "B1, B2: a note.",
        "1 of 3 aims are met; missed:",
        "- B1, asyncio: 0.60 of P, aim >= 0.7",
        "- B1, asyncio: 100 /s, aim >= 200 /s",
    ]


def test_all_rows_fit_into_the_width_of_the_table():
    """None of them is cut or broken, however long their figures are."""
    results = [
        Result(
            row.id,
            row.what,
            "asyncio",
            row.pinned,
            row.unit,
            {name: [99.9e6] for name in ("aiomas", *row.against)},
            [Aim(value, name) for name, value in row.aims.get("asyncio", {}).items()],
        )
        for row in ROWS
    ]
    with io.StringIO() as text:
        Console(file=text, width=report.WIDTH).print(report.table(results, FACTS))
        _, shown = text.getvalue().split("─ \n")  # the line below the head
    assert [line.split() for line in shown.splitlines() if line.strip()] == [
        " ".join(line).split() for one in results for line in report.lines(one)
    ]


def test_rows_have_aims_for_baselines_that_they_measure():
    for row in ROWS:
        for aims in row.aims.values():
            assert set(aims) <= set(row.against)


def test_names_of_rows_are_unique():
    assert len({row.id for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (215_300, "calls/s", "215 k/s"),
        (4.51e9, "B/s", "4.5 GB/s"),
        (183, "B", "183 B"),
        (0.234, "s", "0.23 s"),
    ],
)
def test_quantities_are_short(value, unit, text):
    assert report.quantity(value, unit) == text


def test_files_have_all_figures(result, tmp_path):
    curve = Curve("shape", "Title", "x", "y", {"one": [(1, 2.0)]})
    paths = list(report.write(tmp_path / "new", [result], [curve], FACTS))
    assert [path.name for path in paths] == ["results.json", "shape.svg"]
    content = json.loads(paths[0].read_text())
    assert content["facts"] == FACTS
    assert content["rows"][0]["figures"] == {"aiomas": 100.0, "P": 200.0}
    assert content["curves"][0]["series"] == {"one": [[1, 2.0]]}


def test_the_documentation_gets_the_date_the_machine_the_command_and_figures(result, tmp_path):
    curve = Curve("shape", "Title", "x", "y", {"one": [(1, 2.0)]}, note="A note.")
    folder = tmp_path / "performance"
    paths = list(report.write_docs(folder, [result], [curve], FACTS))
    assert [path.name for path in paths] == ["results.inc", "shape.svg"]
    text = paths[0].read_text()
    for part in ("2026-01-02", "a processor, 2 cores", "`python -m benchmarks --only B1`"):
        assert part in text
    assert "| B1 | calls | asyncio | one | 100 /s | P | 200 /s | 0.60 | >= 0.5 | yes |" in text
    assert "](performance/shape.svg)" in text
    assert "A note." in text


def test_a_part_of_a_name_stands_for_all_that_begin_with_it():
    plan = Plan(only=["B2", "B7-64"])
    assert plan.wants("B2-64")
    assert plan.wants("B2-64-async")
    assert plan.wants("B7-64")
    assert not plan.wants("B7-1")
    assert not plan.wants("B1")
    assert Plan().wants("B1")
