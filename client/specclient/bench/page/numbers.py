# SPDX-License-Identifier: Apache-2.0
"""Numbers and load points as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from specclient.bench.document import Load

NONE = "–"


def number(value: float | None, digits: int | None = None) -> str:
    """``value`` with separators of thousands; ``digits`` decimals, or three significant digits."""
    if value is None or not math.isfinite(value):
        return NONE
    if digits is None:
        size = abs(value)
        digits = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """A share as per cent."""
    return NONE if value is None else f"{value:.1%}"


def interval(value: list[float] | None, digits: int = 2) -> str:
    """A confidence interval."""
    return NONE if value is None else f"{value[0]:.{digits}f} to {value[1]:.{digits}f}"


def load_name(load: Load) -> str:
    """A load point in words."""
    if load["kind"] == "concurrency":
        return f"concurrency {load['value']:.4g}"
    return f"{load['value']:.4g} requests/s" + (f" ({load['arrival']})" if load["arrival"] else "")


def load_head(loads: Iterable[Load]) -> str:
    """The head of a table's column of load points, for ``load_cell``: short where all are of a kind."""
    kinds = {(load["kind"], load["arrival"]) for load in loads}
    if len(kinds) != 1:
        return "load"
    ((kind, arrival),) = kinds
    return "concurrency" if kind == "concurrency" else f"requests/s ({arrival})" if arrival else "requests/s"


def load_cell(load: Load, head: str) -> str:
    """A load point below ``head``."""
    return load_name(load) if head == "load" else f"{load['value']:.4g}"


def load_axis(loads: Iterable[Load]) -> str:
    """What the load points of a sweep have in common."""
    kinds = {load["kind"] for load in loads}
    if kinds == {"concurrency"}:
        return "requests at a time (concurrency)"
    return "requests per second" if kinds == {"rate"} else "load"
