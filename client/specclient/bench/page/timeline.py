# SPDX-License-Identifier: Apache-2.0
"""The time line of one request's rounds, a lane for each arm."""

from __future__ import annotations

from collections.abc import Sequence

from specclient.bench.document import Document, Timeline, TimelineChunk
from specclient.bench.page import numbers
from specclient.bench.page.charts import Chart, arms
from specclient.bench.page.numbers import load_name, number
from specclient.bench.page.svg import (
    LONGEST_NAME,
    RIGHT,
    STYLES,
    WIDTH,
    Axis,
    label,
    linear,
    picture,
    shortened,
    tag,
)
from specclient.bench.page.table import Table

TALLEST, NAME, FOOT = 90, 24, 44
"""Of the highest bar, of the line above a lane, and of the axis."""
TABLE_ROWS = 50
"""Of an arm in the text table; the JSON has every chunk of the request."""


def rounds(document: Document) -> Chart | None:
    """One request: each bar is a chunk, its width the waiting for it, its height the tokens that came."""
    shown = [timeline for timeline in document["timelines"] if timeline["chunks"]]
    if not shown:
        return None
    axis = linear("ms since sending", [line["chunks"][-1]["received_ms"] for line in shown])
    highest = max(map(_height, shown))
    styles = arms(document)
    lanes, bottom = [], 0.0
    for line in shown:
        bottom += NAME + TALLEST / highest * _height(line)
        lanes.append(_lane(line, styles.get(line["arm"], 0), axis, TALLEST / highest, bottom))
    title = "One request, round by round"
    note = (
        "Each bar is a chunk: its width is the time waited for it, its height the tokens that came "
        f"(the highest is {highest}). Above it, pale: tokens drafted in vain. Prompt {shown[0]['prompt']}, "
        f"{load_name(shown[0]['load'])}."
    )
    svg = picture("rounds", title, note, bottom + FOOT, "".join(lanes) + _axis(axis, bottom))
    return Chart("rounds", title, note, svg, _table(title, shown), long=True)


def _height(line: Timeline) -> int:
    """Of the highest bar, in tokens."""
    return max(_tokens(chunk) + _vain(chunk) for chunk in line["chunks"])


def _tokens(chunk: TimelineChunk) -> int:
    """1 where the server does not count the tokens of a chunk."""
    return 1 if chunk["tokens"] is None else chunk["tokens"]


def _vain(chunk: TimelineChunk) -> int:
    return max(0, (chunk["draft_tokens"] or 0) - (chunk["accepted_draft_tokens"] or 0))


def _lane(line: Timeline, style: int, axis: Axis, unit: float, base: float) -> str:
    counted = [chunk["tokens"] for chunk in line["chunks"]]
    size = f"{len(counted)} chunks" if None in counted else f"{sum(map(_tokens, line['chunks']))} tokens"
    end = line["chunks"][-1]["received_ms"]
    parts = [
        label(
            f"{shortened(line['arm'], LONGEST_NAME // 2)}: {size} in {number(end)} ms",
            4,
            base - unit * _height(line) - 6,
            class_="label strong",
        ),
        tag("line", x1=4, x2=WIDTH - RIGHT, y1=base, y2=base, class_="axis"),
    ]
    before = 0.0
    for chunk in line["chunks"]:
        left, right = _x(axis, before), _x(axis, chunk["received_ms"])
        # The gap between two bars, as long as they are wide enough to have one.
        width = max(right - left - 0.6, (right - left) * 0.7)
        height = _tokens(chunk) * unit
        vain = _vain(chunk) * unit
        if vain:
            parts.append(_bar(left, base - height - vain, width, vain, "vain"))
        parts.append(_bar(left, base - height, width, height, f"arm-{style % STYLES} bar"))
        before = chunk["received_ms"]
    return "".join(parts)


def _bar(x: float, y: float, width: float, height: float, look: str) -> str:
    return tag("rect", x=f"{x:.2f}", y=y, width=f"{width:.2f}", height=height, class_=look)


def _x(axis: Axis, value: float) -> float:
    return 4 + value / axis.high * (WIDTH - 4 - RIGHT)


def _axis(axis: Axis, top: float) -> str:
    parts = []
    for value, text in axis.ticks:
        at = _x(axis, value)
        anchor = "start" if value == 0 else "end" if value == axis.high else "middle"
        parts.append(tag("line", x1=at, x2=at, y1=top, y2=top + 4, class_="axis"))
        parts.append(label(text, at, top + 17, anchor=anchor))
    parts.append(label(axis.label, WIDTH - RIGHT, top + FOOT - 8, anchor="end", class_="label strong"))
    return "".join(parts)


def _table(title: str, lines: Sequence[Timeline]) -> Table:
    rows = []
    for line in lines:
        before = 0.0
        for position, chunk in enumerate(line["chunks"][:TABLE_ROWS], 1):
            rows.append(
                (
                    line["arm"],
                    str(position),
                    number(chunk["received_ms"], 1),
                    number(chunk["received_ms"] - before, 1),
                    _count(chunk["tokens"]),
                    _count(chunk["rounds"]),
                    _count(chunk["draft_tokens"]),
                    _count(chunk["accepted_draft_tokens"]),
                )
            )
            before = chunk["received_ms"]
    heads = ("arm", "chunk", "received (ms)", "waited (ms)", "tokens", "rounds", "drafted", "accepted")
    cut = any(len(line["chunks"]) > TABLE_ROWS for line in lines)
    return Table(f"{title} (the first {TABLE_ROWS} chunks)" if cut else title, heads, rows)


def _count(value: int | None) -> str:
    return numbers.NONE if value is None else str(value)
