"""Drawings of curves: well-formed, with all that was measured, and to scale."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from benchmarks.svg import Axis, Curve, count, draw, limits, marks, size

SVG = "{http://www.w3.org/2000/svg}"


def make(**kwargs):
    fields = {
        "name": "name",
        "title": "Title",
        "x_label": "things",
        "y_label": "microseconds",
        "series": {
            "asyncio": [(1, 30.0), (10, 31.0), (100, 33.0)],
            "uvloop": [(1, 12.0), (10, 12.5)],
        },
    }
    return Curve(**{**fields, **kwargs})


def texts(drawing):
    return [element.text for element in ET.fromstring(drawing).iter(f"{SVG}text")]


def test_a_drawing_is_well_formed_and_says_what_it_shows():
    found = texts(draw(make()))
    assert {"Title", "things", "microseconds", "asyncio", "uvloop"} <= set(found)
    assert {"1", "10", "100"} <= set(found)  # what was measured, on the x axis


def test_each_point_is_there_within_the_drawing():
    root = ET.fromstring(draw(make()))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    circles = list(root.iter(f"{SVG}circle"))
    assert len(circles) == 5
    for circle in circles:
        assert 0 < float(circle.attrib["cx"]) < width
        assert 0 < float(circle.attrib["cy"]) < height


def test_more_is_further_up_and_further_to_the_right():
    root = ET.fromstring(draw(make(series={"one": [(1, 10.0), (10, 1000.0)]})))
    low, high = root.iter(f"{SVG}circle")
    assert float(low.attrib["cx"]) < float(high.attrib["cx"])
    assert float(low.attrib["cy"]) > float(high.attrib["cy"])


def test_names_are_escaped():
    drawing = draw(make(title="a < b & c", series={"<x>": [(1, 1.0)]}))
    assert {"a < b & c", "<x>"} <= set(texts(drawing))


def test_series_differ_by_more_than_their_colour():
    points = [(1, 1.0), (2, 2.0)]
    drawing = draw(make(series=dict.fromkeys("abcd", points)))
    assert len(set(re.findall(r'stroke-dasharray="([^"]*)"', drawing))) == 4


def test_a_drawing_can_be_read_in_light_and_dark():
    drawing = draw(make())
    assert "prefers-color-scheme: dark" in drawing
    assert 'class="back"' in drawing


def test_a_decade_is_as_long_as_any_other():
    axis = Axis(1, 100, 0, 200)
    assert [axis.place(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 400], (2, 500)),
        ([1, 100], (1, 100)),
        ([0.03, 7], (0.02, 10)),
    ],
)
def test_limits_are_round(values, expected):
    assert limits(values) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[30, 31], [10], [99, 101], [0.5, 0.6]])
def test_limits_are_a_decade_apart_so_that_noise_is_no_slope(values):
    low, high = limits(values)
    assert low <= min(values) <= max(values) <= high
    assert 9.9 <= high / low <= 100


@pytest.mark.parametrize("values", [[], [0, 1], [-1, 5]])
def test_what_has_no_logarithm_is_refused(values):
    with pytest.raises(ValueError, match="positive"):
        limits(values)


def test_marks_are_few():
    assert marks(20, 500) == pytest.approx([20, 50, 100, 200, 500])
    assert marks(1, 1e8) == pytest.approx([10.0**power for power in range(9)])


def test_marks_are_short():
    assert [count(value) for value in (0.5, 20, 20_000, 2e6)] == ["0.5", "20", "20k", "2M"]
    assert [size(value) for value in (16, 4096, 64 * 2**20)] == ["16 B", "4 KiB", "64 MiB"]
