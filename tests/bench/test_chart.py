"""A picture of figures: both axes from 0, every value where it belongs, names that are text."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from corgi.bench.chart import BOTTOM, HEIGHT, TOP, Chart, draw

SVG = "{http://www.w3.org/2000/svg}"


def drawn(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(draw(chart))


def test_values_lie_between_0_and_the_top() -> None:
    root = drawn(Chart("t", "", "x", "ms", ["a", "b", "c"], {"p50": [0.0, 2.0, 5.0]}))
    heights = [float(circle.get("cy", "nan")) for circle in root.iter(f"{SVG}circle")]
    assert heights == [HEIGHT - BOTTOM, pytest.approx(HEIGHT - BOTTOM - 0.4 * (HEIGHT - BOTTOM - TOP)), TOP]


def test_bars_of_a_label_stand_side_by_side() -> None:
    root = drawn(Chart("t", "", "x", "ms", ["a", "b"], {"p50": [1, 2], "p99": [3, 4]}, lines=False))
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("rx") == "3" and rect.get("width") != "12"]
    spans = sorted((float(bar.get("x", "")), float(bar.get("width", ""))) for bar in bars)
    assert len(spans) == 4
    assert all(x + width <= next_x for (x, width), (next_x, _) in pairwise(spans))


def test_numbers_on_narrow_bars_are_small() -> None:
    labels = [str(number) for number in range(6)]
    root = drawn(Chart("t", "", "x", "ms", labels, {name: [0.3125] * 6 for name in "abc"}, lines=False))
    values = [text for text in root.iter(f"{SVG}text") if text.text == "0.31"]
    assert len(values) == 18
    assert all(text.get("style") == "font-size:9px" for text in values)


def test_names_cannot_break_the_picture() -> None:
    root = drawn(Chart("<a> & b", '"', "<x>", "y", ["<1>"], {"<s>": [1.0]}))
    assert root.get("aria-label") == "<a> & b"


def test_nothing_measured_is_drawn_as_nothing() -> None:
    assert not list(drawn(Chart("t", "", "x", "y", [], {})).iter(f"{SVG}circle"))
    assert drawn(Chart("t", "", "x", "y", ["a"], {"p50": [0.0]})) is not None
