# SPDX-License-Identifier: Apache-2.0
"""Tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from specclient.bench.page.numbers import NONE


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts; the first ``text_columns`` stand left, numbers right. Everything is escaped.

    A column that is undefined in every row is left out.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1

    def html(self) -> str:
        """The table in a box that scrolls sideways when the screen is narrow."""
        caption = escape(self.caption)
        columns = [i for i in range(len(self.heads)) if i == 0 or any(row[i] != NONE for row in self.rows)]
        heads = "".join(f'<th scope="col"{self._side(i)}>{escape(self.heads[i])}</th>' for i in columns)
        rows = "".join(f"<tr>{self._row(row, columns)}</tr>" for row in self.rows)
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table>'
            f"<caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def _row(self, row: Sequence[str], columns: Sequence[int]) -> str:
        cells = "".join(f"<td{self._side(i)}>{escape(row[i])}</td>" for i in columns[1:])
        return f'<th scope="row"{self._side(0)}>{escape(row[0])}</th>{cells}'

    def _side(self, column: int) -> str:
        return "" if column < self.text_columns else ' class="n"'
