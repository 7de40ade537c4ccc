# SPDX-License-Identifier: Apache-2.0
"""Which slot of the KV cache a request gets: the one that already holds most of its text. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class Slots:
    """Slots and the tokens whose keys and values they hold, also after their request has ended."""

    def __init__(self, count: int, *, reuse: bool) -> None:
        self._reuse = reuse
        self._held: dict[int, Sequence[int]] = dict.fromkeys(range(count), ())
        """In the order of their last use, the longest unused first."""
        self._taken: set[int] = set()

    @property
    def free(self) -> bool:
        return len(self._taken) < len(self._held)

    def take(self, text: Sequence[int]) -> tuple[int, int]:
        """A free slot and how many of the first tokens of ``text`` it holds, all but the last at most."""
        free = [slot for slot in self._held if slot not in self._taken]
        known = {slot: common(self._held[slot], text) if self._reuse else 0 for slot in free}
        slot = max(free, key=lambda slot: known[slot])  # of equals the longest unused
        if known[slot] == 0:
            # Not over a text that another request may come back for, while there is an empty slot.
            slot = min(free, key=lambda slot: bool(self._held[slot]))
        self._taken.add(slot)
        return slot, min(known[slot], len(text) - 1)

    def give_back(self, slot: int, held: Sequence[int]) -> None:
        """The slot is free; it holds ``held``."""
        self._taken.discard(slot)
        del self._held[slot]
        self._held[slot] = held


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    limit = min(len(one), len(other))
    return next((index for index in range(limit) if one[index] != other[index]), limit)
