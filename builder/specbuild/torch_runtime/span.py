# SPDX-License-Identifier: Apache-2.0
"""The part of a pass that belongs to one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """``length`` tokens of the request in ``slot``; the first one is at position ``start``."""

    slot: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """Tokens in the slot after the pass."""
        return self.start + self.length
