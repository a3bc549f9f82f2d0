# ruff: noqa: E501 (markup reads best in lines of its own)
"""Measurements as a picture: latencies over volume, or by the names of what was compared. One SVG, nothing beside it.

Pure: knows labels and numbers only. Both axes begin at 0, so that what looks flat is flat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 64, 58
COLOURS = ("#4c78d8", "#e9a52b", "#2fa37c", "#b65bc9", "#d9604c")
TICKS = 5
NARROW = 30  # a bar on which three digits of the usual size have no room

STYLE = """<style>
text{font:12px system-ui,sans-serif;fill:#1d2430}.title{font-size:17px;font-weight:600}.soft{fill:#667085}
.grid{stroke:#e4e7ec}.page{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#e6e9ef}.soft{fill:#98a2b3}.grid{stroke:#2b3340}.page{fill:#12161d}}
</style>"""


class Chart(NamedTuple):
    """``series``: name to one value for each label. ``lines``: the labels are an axis; otherwise bars stand side by
    side."""

    title: str
    subtitle: str
    x_title: str
    y_title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    lines: bool = True


def draw(chart: Chart) -> str:
    """The SVG as text."""
    top = _round_up(max((value for values in chart.series.values() for value in values), default=1.0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">',
        STYLE,
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(chart.title)}</text>',
        f'<text class="soft" x="{LEFT}" y="46">{escape(chart.subtitle)}</text>',
        *_grid(chart, top),
    ]
    for number, (name, values) in enumerate(chart.series.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts += _line(values, top, colour) if chart.lines else _bars(values, top, colour, number, len(chart.series))
        y = TOP + 14 + 20 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 20}" y="{y - 10}" width="12" height="12" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 38}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _grid(chart: Chart, top: float) -> list[str]:
    parts = []
    for tick in range(TICKS + 1):
        value = top * tick / TICKS
        y = _y(value, top)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for number, label in enumerate(chart.labels):
        x = _x(number, len(chart.labels))
        parts.append(
            f'<text class="soft" x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{escape(label)}</text>'
        )
    parts.append(
        f'<text class="soft" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(chart.x_title)}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="soft" transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{escape(chart.y_title)}</text>'
    )
    return parts


def _line(values: Sequence[float], top: float, colour: str) -> list[str]:
    points = [(_x(number, len(values)), _y(value, top)) for number, value in enumerate(values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for (x, y), value in zip(points, values, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{value:g}</title></circle>')
    return parts


def _bars(values: Sequence[float], top: float, colour: str, number: int, of: int) -> list[str]:
    step = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    width = step * 0.7 / of
    narrow = width < NARROW
    style, digits = (' style="font-size:9px"', 2) if narrow else ("", 3)
    parts = []
    for at, value in enumerate(values):
        x = LEFT + step * (at + 0.15) + width * number
        y = _y(value, top)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" rx="3" fill="{colour}"/>'
        )
        parts.append(
            f'<text class="soft"{style} x="{x + width / 2:.1f}" y="{y - 5:.1f}" text-anchor="middle">{value:.{digits}g}</text>'
        )
    return parts


def _x(number: int, of: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (number + 0.5) / max(of, 1)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value)
