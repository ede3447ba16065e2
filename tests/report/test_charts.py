"""The charts: numbers become pixels as the axes say, and text stays text. Run: pytest tests/report"""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcllm.report import charts
from hpcllm.report.charts import Bar, Dot, Line, Scale


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_a_scale_goes_from_its_ends_to_its_pixels() -> None:
    assert [Scale(0, 10, 100, 0)(v) for v in (0, 5, 10)] == [100, 50, 0]
    assert Scale(1, 100, 0, 200, log=True)(10) == pytest.approx(100)


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, length: float, count: int) -> None:
    high = low + length

    ticks = Scale(low, high, 0, 100).ticks(count)

    slack = 1e-6 * max(abs(low), abs(high), length)
    assert 0 <= len(ticks) <= 2 * count + 1
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@given(st.floats(1e-3, 1e3), st.floats(1.5, 1e6))
def test_logarithmic_ticks_are_ones_twos_and_fives_of_a_decade(low: float, factor: float) -> None:
    ticks = Scale(low, low * factor, 0, 100, log=True).ticks(6)

    assert all(f"{tick:e}"[0] in "125" for tick in ticks)


def test_each_curve_carries_its_name_and_last_value() -> None:
    lines = [Line("train", [(1, 9.0), (2, 3.25)], "train"), Line("validation", [(2, 3.3)], "validation", dots=True)]

    texts = _texts(charts.line_chart("loss", lines, "nats", 800, "{:.2f}".format))

    assert {"train", "3.25", "validation", "3.30", "nats", "step"} <= set(texts)


def test_labels_of_curves_that_end_together_do_not_lie_on_each_other() -> None:
    lines = [Line(name, [(1, 9.0), (2, 3.0)], name) for name in ("one", "two", "three")]

    svg = ElementTree.fromstring(charts.line_chart("loss", lines, "nats", 800, "{:.2f}".format))

    levels = sorted(float(e.attrib["y"]) for e in svg.iter("text") if e.text in ("one", "two", "three"))
    assert min(b - a for a, b in pairwise(levels)) >= 30
    assert max(levels) < float(svg.attrib["height"])


def test_more_points_than_pixels_become_a_mean_in_a_band() -> None:
    points = [(step, 3 + (step % 2)) for step in range(1, 20001)]

    cut = charts.columns(points, Scale(1, 20000, 0, 200))

    assert len(cut) <= 101
    assert all((low, high) == (3, 4) and mean == pytest.approx(3.5, abs=0.02) for _, mean, low, high in cut)
    chart = charts.line_chart("loss", [Line("train", points, "train")], "nats", 800, "{:.2f}".format)
    assert 'class="band train"' in chart
    assert len(chart) < 40_000


def test_a_loss_that_falls_at_once_has_a_logarithmic_axis() -> None:
    early = [(step, 3 + 100 / step) for step in range(1, 2001)]
    late = [(step, 10 - step / 500) for step in range(1, 2001)]

    def labels(points: list[tuple[int, float]]) -> list[str]:
        return _texts(charts.line_chart("loss", [Line("train", points, "train")], "nats", 800, "{:.2f}".format))

    assert "step (logarithmic)" in labels(early)
    assert "step" in labels(late)


def test_bars_of_results_begin_at_zero_and_a_logarithmic_axis_has_none() -> None:
    dots = [Dot("a", 20, "20", "trained"), Dot("b", 4000, "4000", "yardstick")]

    assert charts.dot_chart("perplexity", dots, 800).count("stem") == 2
    assert "stem" not in charts.dot_chart("perplexity", dots, 800, log=True)
    assert "logarithmic axis" in charts.dot_chart("perplexity", dots, 800, log=True)


def test_a_result_of_zero_has_its_place() -> None:
    svg = charts.dot_chart("bleu", [Dot("a", 12.0, "12", "trained"), Dot("b", 0.0, "0", "yardstick")], 800)

    assert len(re.findall("<circle", svg)) == 2


@pytest.mark.parametrize("whole_s", [0.0, 0.2, 7.0, 500.0, 90_000.0, 3e7])
def test_time_axes_have_a_few_round_times(whole_s: float) -> None:
    bars = [Bar("train", 1e9, 1e9 + whole_s, "x", "done"), Bar("evaluate", 1e9, 1e9, "y", "done")]

    svg = charts.gantt("stages", bars, 800)

    assert {"train", "evaluate", "0"} <= set(_texts(svg))
    assert len(_texts(svg)) <= 4 + 9


def test_shares_fill_the_whole_width() -> None:
    svg = ElementTree.fromstring(charts.share_bar("step", [("compute", 3.0), ("data", 1.0)], 400))

    assert [float(rect.attrib["width"]) for rect in svg.iter("rect")] == [300.0, 100.0]


def test_text_in_a_chart_is_escaped() -> None:
    svg = charts.dot_chart('"<x>', [Dot("<b>&", 1.0, "<i>", "trained")], 800)

    assert _texts(svg) == ["<b>&", "<i>"]
    assert ElementTree.fromstring(svg).attrib["aria-label"] == '"<x>'
