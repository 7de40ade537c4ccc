# SPDX-License-Identifier: Apache-2.0
"""Results: one row each, appended to a file as they come, and the table made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure. ``reference`` is what it is measured against: a floor, a peer, another row."""

    section: str
    what: str
    value: float | None
    """None where the figure was not taken; ``note`` says why."""
    unit: str
    batch: int | None = None
    context: int | None = None
    alpha: float | None = None
    reference: float | None = None
    against: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """value ÷ reference."""
        if self.value is None or not self.reference:
            return None
        return self.value / self.reference


class Recorder:
    """Appends rows to a file and prints them."""

    def __init__(self, section: str, file: Path) -> None:
        self._section = section
        self._file = file

    def row(self, what: str, value: float | None, unit: str, **columns: object) -> None:
        """Record a figure; ``columns`` are further fields of Row."""
        made = Row(self._section, what, value, unit, **columns)  # type: ignore[arg-type]
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(made)) + "\n")
        print(line(made), flush=True)


HEADER = (
    f"{'section':13}{'what':38}{'batch':>6}{'context':>8}{'α':>6}{'value':>11} {'unit':9}"
    f"{'against':28}{'':>10}{'ratio':>8}  note"
)


def line(row: Row) -> str:
    """``row`` as a line of the table."""
    against = row.against if row.reference is not None else ""
    return (
        f"{row.section:13}{row.what:38}{_whole(row.batch):>6}{_whole(row.context):>8}"
        f"{'' if row.alpha is None else f'{row.alpha:.1f}':>6}{_figure(row.value):>11} {row.unit:9}"
        f"{against:28}{_figure(row.reference, missing=''):>10}"
        f"{'' if row.ratio is None else f'{row.ratio:.2f}x':>8}  {row.note}"
    ).rstrip()


def table(rows: Sequence[Row]) -> str:
    """All rows under one header."""
    return "\n".join([HEADER, "-" * len(HEADER), *map(line, rows)])


def read(file: Path) -> list[Row]:
    """The rows recorded in ``file``."""
    if not file.exists():
        return []
    return [Row(**json.loads(text)) for text in file.read_text(encoding="utf-8").splitlines()]


def _whole(value: int | None) -> str:
    return "" if value is None else str(value)


def _figure(value: float | None, missing: str = "-") -> str:
    if value is None:
        return missing
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
