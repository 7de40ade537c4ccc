# SPDX-License-Identifier: Apache-2.0
"""Stop texts, as OpenAI means them: the answer ends before the first of them.

The server stops by tokens, and its answer still has the stop sequence; a text may also lie across tokens
that no stop sequence has. So the text is searched here, and what may be the start of a stop text waits.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Searches one answer."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def feed(self, text: str, *, last: bool) -> str:
        """What of the answer may be shown after ``text`` has come; nothing follows once ``found``."""
        held = self._held + text
        ends = [position for stop in self._stops if (position := held.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return held[: min(ends)]
        keep = 0 if last else max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` may begin ``stop``."""
    return next(
        (size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0
    )
