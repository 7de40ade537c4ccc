# SPDX-License-Identifier: Apache-2.0
"""Tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts; the first ``text_columns`` stand left, numbers right. Everything is escaped."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1

    def html(self) -> str:
        """The table in a box that scrolls sideways when the screen is narrow."""
        caption = escape(self.caption)
        heads = "".join(
            f'<th scope="col"{self._side(i)}>{escape(head)}</th>' for i, head in enumerate(self.heads)
        )
        rows = "".join(f"<tr>{self._row(row)}</tr>" for row in self.rows)
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table>'
            f"<caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def _row(self, row: Sequence[str]) -> str:
        first, *others = (escape(cell) for cell in row)
        cells = "".join(f"<td{self._side(i)}>{cell}</td>" for i, cell in enumerate(others, 1))
        return f'<th scope="row"{self._side(0)}>{first}</th>{cells}'

    def _side(self, column: int) -> str:
        return "" if column < self.text_columns else ' class="n"'
