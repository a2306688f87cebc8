"""A small line chart as SVG: one panel per number of workers, one line per number of partitions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

__all__ = ["Series", "chart"]

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Lines by name, each of (x, y) with ascending positive x."""

WIDTH: Final = 420
HEIGHT: Final = 300
LEFT: Final = 60
BOTTOM: Final = 45
TOP: Final = 40
RIGHT: Final = 20
COLOURS: Final = ("#1f5fa8", "#c25b12", "#2f7d4f", "#7a4fa3", "#8a8a1f")
TICKS: Final = 5


def chart(panels: Mapping[str, Series], *, title: str, x_name: str, y_name: str) -> str:
    """Return the SVG text; x is logarithmic, y begins at zero, and all panels share both axes."""
    points = [point for series in panels.values() for line in series.values() for point in line]
    xs = sorted({x for x, _ in points})
    y_max = _ceiling(max(y for _, y in points))
    width = WIDTH * len(panels)
    view = f'viewBox="0 0 {width} {HEIGHT + TOP}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {view}>',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{width / 2:.0f}" y="18" text-anchor="middle" font-size="14">{escape(title)}</text>',
    ]
    for number, (name, series) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({number * WIDTH},{TOP - 10})">')
        parts += _axes(xs, y_max, name=name, x_name=x_name, y_name=y_name)
        parts += _lines(series, xs, y_max)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _axes(xs: Sequence[float], y_max: float, *, name: str, x_name: str, y_name: str) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    middle = (LEFT + right) / 2
    yield f'<text x="{middle:.0f}" y="14" text-anchor="middle" font-weight="bold">{escape(name)}</text>'
    yield f'<path d="M{LEFT},{TOP} V{bottom} H{right}" fill="none" stroke="black"/>'
    for number in range(TICKS + 1):
        value = y_max * number / TICKS
        y = _y(value, y_max)
        yield f'<path d="M{LEFT},{y:.1f} H{right}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    for x in xs:
        yield f'<text x="{_x(x, xs):.1f}" y="{bottom + 16}" text-anchor="middle">{x:,.0f}</text>'
    yield f'<text x="{middle:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(x_name)}</text>'
    turned = f'transform="rotate(-90 14 {(TOP + bottom) / 2:.0f})"'
    yield f'<text x="14" y="{(TOP + bottom) / 2:.0f}" text-anchor="middle" {turned}>{escape(y_name)}</text>'


def _lines(series: Series, xs: Sequence[float], y_max: float) -> Iterator[str]:
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [(_x(x, xs), _y(y, y_max)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
        y = HEIGHT - BOTTOM - 10 - 16 * (len(series) - 1 - number)
        yield f'<path d="M{LEFT + 14},{y - 4} h20" stroke="{colour}" stroke-width="2"/>'
        yield f'<text x="{LEFT + 40}" y="{y}">{escape(name)}</text>'


def _x(value: float, xs: Sequence[float]) -> float:
    span = math.log(xs[-1] / xs[0]) or 1.0
    inner = WIDTH - RIGHT - LEFT - 40
    return LEFT + 20 + inner * math.log(value / xs[0]) / span


def _y(value: float, y_max: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / y_max


def _ceiling(value: float) -> float:
    """Return the next round number at or above a positive value."""
    unit: float = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.5, 2, 2.5, 5, 10) if unit * step >= value)
