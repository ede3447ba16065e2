"""Charts as SVG text: pure functions of numbers and a width in CSS pixels.

No script, no font, no colour of their own: they take classes, and the page's style decides. A page holds each chart
twice, for a wide and for a narrow screen, because text in a scaled drawing would shrink with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from hpcllm.units import format_seconds

Points = Sequence[tuple[float, float]]
Format = Callable[[float], str]

CHARACTER = 7.2  # width of a digit or letter of the charts' text, to leave room for labels


@dataclass(frozen=True)
class Scale:
    """From numbers to pixels along one axis."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        a, b, v = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((v - a) / (b - a) if b > a else 0.5)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values inside the axis."""
        return _log_ticks(self.low, self.high, count) if self.log else _even_ticks(self.low, self.high, count)


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: Points
    style: str
    """CSS class."""
    dots: bool = False
    """Mark each point: there are few, and each was measured."""


@dataclass(frozen=True)
class Bar:
    """One stage in time."""

    name: str
    start_s: float
    end_s: float
    label: str
    style: str


@dataclass(frozen=True)
class Dot:
    """One result among others."""

    name: str
    value: float
    label: str
    style: str


def line_chart(
    title: str,
    lines: Sequence[Line],
    y_label: str,
    width: int,
    value_format: Format,
    from_zero: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    height: int = 280,
) -> Markup:
    """Curves over steps, each with its last value written at its end; `marks` are dotted verticals with a word.

    More points than pixels become the mean of each pixel column, in a band from its lowest to its highest value.
    """
    drawn = [line for line in lines if line.points]
    right = 24 + CHARACTER * max(len(line.name) for line in drawn)
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x = Scale(min(xs), max(xs), 46, width - right)
    x = _logarithmic(x) if _falls_early(drawn[0].points) else x
    y = Scale(0 if from_zero else min(ys), max(ys) if max(ys) > min(ys) else min(ys) + 1, height - 42, 26)
    parts = [
        _text(0, 12, y_label, "unit"),
        *_y_axis(y, x, value_format),
        *_x_axis(x, y, "step" + (" (logarithmic)" if x.log else "")),
        *(_mark(x, y, at, word) for at, word in marks),
        *(part for line in drawn for part in _curve(line, x, y)),
        *_end_labels(drawn, x, y, value_format),
    ]
    return _svg(title, width, height, parts)


def dot_chart(title: str, dots: Sequence[Dot], width: int, log: bool = False) -> Markup:
    """Results of one measure, a row each, on one axis from zero, or on a logarithmic one (for positive results)."""
    left, row = 12 + CHARACTER * max(len(dot.name) for dot in dots), 26
    right = 16 + CHARACTER * max(len(dot.label) for dot in dots)
    low, high = min(dot.value for dot in dots), max(dot.value for dot in dots)
    x = Scale(low / 1.5 if log else min(0, low), high, left, width - right, log)
    parts = []
    for i, dot in enumerate(dots):
        at, level = x(dot.value), 16 + i * row
        parts += [
            _text(0, level + 4, dot.name, "name"),
            _line(left, level, width - right, level, "grid"),
            *([] if log else [_line(x(0), level, at, level, f"stem {dot.style}")]),
            _tag("circle", cx=at, cy=level, r=5, class_=dot.style),
            _text(at + 10, level + 4, dot.label, "value"),
        ]
    if log:
        parts.append(_text(left, 16 + len(dots) * row, "logarithmic axis", "unit"))
    return _svg(title, width, 8 + row * (len(dots) + log), parts)


def gantt(title: str, bars: Sequence[Bar], width: int) -> Markup:
    """Stages over time, a row each, from the first start."""
    left, row, top = 12 + CHARACTER * max(len(bar.name) for bar in bars), 24, 24
    right = 28 + CHARACTER * max(len(bar.label) for bar in bars)
    begin, end = min(bar.start_s for bar in bars), max(bar.end_s for bar in bars)
    x = Scale(0, max(end - begin, 1e-3), left, width - right)
    bottom = top + row * len(bars)
    parts = []
    for at in _time_ticks(x.high, 3 if width < 500 else 6):
        parts += [_line(x(at), top - 6, x(at), bottom, "grid"), _text(x(at), 12, _clock(at), "tick middle")]
    for i, bar in enumerate(bars):
        start, stop, level = x(bar.start_s - begin), x(bar.end_s - begin), top + i * row
        parts += [
            _text(0, level + 13, bar.name, "name"),
            _tag("rect", x=start, y=level + 3, width=max(stop - start, 2), height=13, rx=2, class_=f"bar {bar.style}"),
            _text(max(stop, start + 2) + 8, level + 13, bar.label, "value"),
        ]
    return _svg(title, width, bottom + 4, parts)


def share_bar(title: str, shares: Sequence[tuple[str, float]], width: int) -> Markup:
    """One whole, cut into parts; the page writes the legend. Styles are share-0, share-1, …"""
    x = Scale(0, sum(value for _, value in shares) or 1, 0, width)
    parts, at = [], 0.0
    for i, (name, value) in enumerate(shares):
        cut = _tag(
            "rect", _tag("title", name), x=x(at), y=0, width=x(at + value) - x(at), height=14, class_=f"share-{i}"
        )
        parts.append(cut)
        at += value
    return _svg(title, width, 14, parts)


# ---- the parts of a line chart ---------------------------------------------------------------------------------------


def columns(points: Points, x: Scale) -> list[tuple[float, float, float, float]]:
    """(pixel, mean, lowest, highest) of every pixel column pair that has points, from left to right."""
    found: dict[int, list[float]] = {}
    for at, value in points:
        found.setdefault(round(x(at) / 2), []).append(value)
    return [(2.0 * column, sum(v) / len(v), min(v), max(v)) for column, v in sorted(found.items())]


def _curve(line: Line, x: Scale, y: Scale) -> list[Markup]:
    if line.dots or len(line.points) < (x.end - x.start) / 2:
        spots = [(x(at), y(value)) for at, value in line.points]
        marks = [_tag("circle", cx=a, cy=b, r=3, class_=line.style) for a, b in spots] if line.dots else []
        return [_tag("path", d=_path(spots), class_=f"line {line.style}"), *marks]
    cut = columns(line.points, x)
    outline = [(at, y(high)) for at, _, _, high in cut] + [(at, y(low)) for at, _, low, _ in reversed(cut)]
    mean = [(at, y(value)) for at, value, _, _ in cut]
    band = _tag("path", d=_path(outline) + "Z", class_=f"band {line.style}")
    return [band, _tag("path", d=_path(mean), class_=f"line {line.style}")]


def _end_labels(lines: Sequence[Line], x: Scale, y: Scale, value_format: Format) -> list[Markup]:
    """Name and last value of each curve at its right, pushed apart where they would lie on each other."""
    last = sorted(lines, key=lambda line: y(line.points[-1][1]))
    levels: list[float] = []
    for line in last:
        wanted = y(line.points[-1][1])
        levels.append(max(wanted, levels[-1] + 32) if levels else wanted)
    spill = max(0.0, levels[-1] + 14 - y.start - 8)
    parts = []
    for line, level in zip(last, levels, strict=True):
        value = value_format(line.points[-1][1])
        parts += [
            _text(x.end + 10, level - spill - 2, line.name, f"label {line.style}"),
            _text(x.end + 10, level - spill + 13, value, f"label strong {line.style}"),
        ]
    return parts


def _y_axis(y: Scale, x: Scale, value_format: Format) -> list[Markup]:
    parts = []
    for at in y.ticks(5):
        parts += [
            _line(x.start, y(at), x.end, y(at), "grid"),
            _text(x.start - 8, y(at) + 4, _short(at, value_format), "tick end"),
        ]
    return parts


def _x_axis(x: Scale, y: Scale, label: str) -> list[Markup]:
    bottom = y.start + 6
    parts = [_line(x.start, bottom, x.end, bottom, "axis")]
    for at in x.ticks(4 if x.end - x.start < 320 else 7):
        parts += [
            _line(x(at), bottom, x(at), bottom + 4, "axis"),
            _text(x(at), bottom + 17, f"{at:,.6g}", "tick middle"),
        ]
    return [*parts, _text((x.start + x.end) / 2, bottom + 33, label, "unit middle")]


def _mark(x: Scale, y: Scale, at: float, word: str) -> Markup:
    line = _line(x(at), y.end, x(at), y.start + 6, "mark")
    return line + _text(x(at) + 4, y.end + 4, word, "unit")


def _falls_early(points: Points) -> bool:
    """Whether more than half of the way down lies in the first twentieth: then a logarithmic axis shows the rest."""
    if len(points) < 100 or points[0][0] < 1:
        return False
    drop = points[0][1] - min(value for _, value in points)
    return points[0][1] - points[len(points) // 20][1] > drop / 2 > 0


def _logarithmic(x: Scale) -> Scale:
    return Scale(x.low, x.high, x.start, x.end, log=True)


# ---- round numbers ---------------------------------------------------------------------------------------------------


def _even_ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / count
    if raw <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1,)):
        ticks = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(ticks) <= count + 1:
            break
    return ticks


def _time_ticks(whole_s: float, count: int) -> list[float]:
    minute, hour = 60.0, 3600.0
    round_times = [
        1,
        2,
        5,
        10,
        15,
        30,
        *(minute * m for m in (1, 2, 5, 10, 15, 30)),
        *(hour * m for m in (1, 2, 6, 12)),
    ]
    step = next((t for t in round_times if whole_s / t <= count), None)
    if step is None or whole_s < 1:
        return _even_ticks(0, whole_s, count)
    return [i * float(step) for i in range(int(whole_s / step) + 1)]


def _clock(seconds: float) -> str:
    return "0" if seconds == 0 else format_seconds(seconds)


def _short(value: float, value_format: Format) -> str:
    """A tick: without zeros behind the point."""
    return f"{value:g}" if abs(value) < 1000 else value_format(value)


# ---- SVG -------------------------------------------------------------------------------------------------------------


def _svg(title: str, width: int, height: float, parts: Sequence[Markup]) -> Markup:
    box = f"0 0 {width} {height:g}"
    return _tag("svg", *parts, viewBox=box, width=width, height=f"{height:g}", role="img", aria_label=title)


def _tag(name: str, *inside: Markup | str, **attributes: object) -> Markup:
    """An element; whatever is inside or in an attribute is escaped. `class_` is class, `aria_label` is aria-label."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), f"{v:.1f}" if isinstance(v, float) else v)
        for key, v in attributes.items()
    )
    content = Markup("").join(escape(part) for part in inside)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, content)


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return _tag("text", text, x=float(x), y=float(y), class_=style)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return _tag("path", d=_path([(x1, y1), (x2, y2)]), class_=style)


def _path(spots: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
