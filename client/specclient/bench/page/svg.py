# SPDX-License-Identifier: Apache-2.0
"""Line charts as SVG text: pure functions from data to markup.

A chart is drawn 400 units wide with 13-unit text, so that it can be read at the width of a phone, and takes
its colours from the style sheet. Series differ by colour, marker and dashes, so that none is needed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 290
LEFT, RIGHT, BOTTOM = 54, 14, 44
LINE = 18
"""Height of a line of the legend."""
LETTER = 6.9
"""Width of an average letter of the legend."""
LONGEST_NAME = 40
"""Letters; wide ones still fit."""
MOST_TEXTS = 9
"""Beside each other in a chart."""
LEAST = 1e-6
"""Of the top of an axis; below, all values are as good as 0."""
STYLES = 6
"""Series that look different; a further one looks like the first."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from ``low`` to ``high``; ``ticks`` are values with their texts."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A point, its interval in y if it has one, and a text beside it."""

    x: float
    y: float
    interval: tuple[float, float] | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together, in the order in which a line joins them."""

    name: str
    style: int
    points: tuple[Point, ...]
    dashed: bool = False
    markers: bool = True


def linear(label: str, values: Sequence[float]) -> Axis:
    """An axis from 0 over all ``values``, with round ticks."""
    top = max([value for value in values if math.isfinite(value)], default=0.0)
    top = top if top > LEAST else 1.0
    step = 10 ** math.floor(math.log10(top / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if top / (step * factor) <= 5)
    count = math.ceil(top / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((i * step, f"{i * step:,.{digits}f}") for i in range(count + 1))
    return Axis(label, 0.0, count * step, ticks)


def categories(label: str, names: Sequence[str]) -> Axis:
    """An axis with one place for each of ``names``, at 0, 1, 2, ...; as many are written as have room."""
    ticks = [(float(i), name) for i, name in enumerate(names)]
    return Axis(label, -0.5, len(names) - 0.5, tuple(ticks[:: math.ceil(len(ticks) / MOST_TEXTS)]))


def line_chart(
    key: str,
    title: str,
    description: str,
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    reference: float | None = None,
) -> str:
    """The chart. ``key`` makes its ids unique on the page; ``reference`` is a y with a line of its own."""
    legend, top = _legend([(one.name, one.style, one.dashed) for one in series])
    top += LINE + 14  # the label of y has a line of its own: turned by 90 degrees it is hard to read
    frame = Frame(x, y, top)
    parts = [legend, frame.axes()]
    if reference is not None:
        at = frame.y_at(reference)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="reference"))
    parts += [_series(frame, one) for one in series]
    return picture(key, title, description, frame.height, "".join(parts))


def picture(key: str, title: str, description: str, height: float, body: str) -> str:
    """An accessible SVG image."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
        f"{body}</svg>"
    )


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element. ``content`` is markup; ``class_`` and underscores in names become what SVG calls them."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items()
    )
    return f"<{name}{text}>{content}</{name}>" if content else f"<{name}{text}/>"


def label(text: str, x: float, y: float, *, anchor: str = "start", class_: str = "label") -> str:
    """A text; it is escaped."""
    return tag("text", escape(text), x=x, y=y, text_anchor=anchor, class_=class_)


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area below ``top``."""

    x: Axis
    y: Axis
    top: float

    @property
    def height(self) -> float:
        """Of the whole picture."""
        return self.top + HEIGHT - 60

    @property
    def bottom(self) -> float:
        """Where the x axis is."""
        return self.height - BOTTOM

    def x_at(self, value: float) -> float:
        """The place of a value of x."""
        share = (value - self.x.low) / (self.x.high - self.x.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_at(self, value: float) -> float:
        """The place of a value of y."""
        share = (value - self.y.low) / (self.y.high - self.y.low)
        return self.bottom - share * (self.bottom - self.top)

    def axes(self) -> str:
        """Grid, ticks and labels."""
        parts = []
        for value, text in self.y.ticks:
            at = self.y_at(value)
            parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
            parts.append(label(text, LEFT - 6, at + 4, anchor="end"))
        for value, text in self.x.ticks:
            at = self.x_at(value)
            parts.append(tag("line", x1=at, x2=at, y1=self.bottom, y2=self.bottom + 4, class_="axis"))
            parts.append(label(text, at, self.bottom + 17, anchor="middle"))
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=self.bottom, y2=self.bottom, class_="axis"))
        parts.append(label(self.y.label, 4, self.top - 15, class_="label strong"))
        parts.append(label(self.x.label, WIDTH - RIGHT, self.height - 8, anchor="end", class_="label strong"))
        return "".join(parts)


def _series(frame: Frame, series: Series) -> str:
    places = [(frame.x_at(point.x), frame.y_at(point.y)) for point in series.points]
    look = f"arm-{series.style % STYLES}"
    parts = []
    if len(places) > 1:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            tag("polyline", points=points, class_=f"{look} line{' dashed' if series.dashed else ''}")
        )
    for (x, y), point in zip(places, series.points, strict=True):
        if point.interval is not None:
            low, high = (frame.y_at(value) for value in point.interval)
            parts.append(tag("line", x1=x, x2=x, y1=low, y2=high, class_=f"{look} line"))
            parts += [
                tag("line", x1=x - 5, x2=x + 5, y1=end, y2=end, class_=f"{look} line") for end in (low, high)
            ]
        if series.markers:
            parts.append(marker(series.style, x, y))
        if point.label:
            top = y if point.interval is None else frame.y_at(point.interval[1])
            parts.append(label(point.label, x, top - 9, anchor="middle", class_="label halo"))
    return "".join(parts)


def shortened(text: str, longest: int) -> str:
    """``text``, cut where it is too long for its place; the table has the whole."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def marker(style: int, x: float, y: float, size: float = 4.5) -> str:
    """The shape of a series at (x, y)."""
    look = f"arm-{style % STYLES} mark"
    if style % STYLES == 0:
        return tag("circle", cx=x, cy=y, r=size, class_=look)
    outline = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.2), (1.2, 1), (-1.2, 1)),
        3: ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        4: ((0, 1.2), (1.2, -1), (-1.2, -1)),
        5: ((-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)),
    }[style % STYLES]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in outline)
    return tag("polygon", points=points, class_=look)


def _legend(entries: Sequence[tuple[str, int, bool]]) -> tuple[str, float]:
    """The names with their markers, in as many lines as they need, and the height taken."""
    parts = []
    x, y = 4.0, 13.0
    for full, style, dashed in entries:
        name = shortened(full, LONGEST_NAME)
        width = 48 + LETTER * len(name)
        if x > 4 and x + width > WIDTH:
            x, y = 4.0, y + LINE
        dash = " dashed" if dashed else ""
        parts.append(
            tag("line", x1=x, x2=x + 34, y1=y - 4, y2=y - 4, class_=f"arm-{style % STYLES} line{dash}")
        )
        parts.append(marker(style, x + 17, y - 4))
        parts.append(label(name, x + 39, y))
        x += width
    return "".join(parts), y + 4


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(str(value))
