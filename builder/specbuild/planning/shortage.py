# SPDX-License-Identifier: Apache-2.0
"""What a pair that does not fit into a GPU's memory needs, and what to lower, by how much."""

from __future__ import annotations

import bisect
from typing import Any

from specbuild.planning import memory
from specbuild.planning.memory import ModelMemory

_GIB = 1 << 30


def explain(
    available: int,
    target: ModelMemory,
    draft: ModelMemory | None,
    *,
    slots: int,
    max_seq_len: int,
    draft_length: int,
    **settings: Any,
) -> tuple[str, str]:
    """Message and remedy for an engine that ran out of the ``available`` bytes.

    ``settings`` are the other ones of ``memory.plan``. The plan is a lower bound: where it fits, and memory
    ran out all the same, a tenth is to go.
    """

    def plan(slots: int, max_seq_len: int) -> memory.MemoryPlan:
        return memory.plan(
            target, draft, slots=slots, max_seq_len=max_seq_len, draft_length=draft_length, **settings
        )

    need = plan(slots, max_seq_len)
    message = f"the pair needs {need.describe()} of GPU memory, the GPU has {available / _GIB:.1f} GiB for it"
    if need.total <= available:
        fewer, shorter = slots * 9 // 10, max_seq_len * 9 // 10
    else:
        fewer = bisect.bisect_right(range(1, slots + 1), available, key=lambda n: plan(n, max_seq_len).total)
        shorter = bisect.bisect_right(
            range(1, max_seq_len + 1), available, key=lambda n: plan(slots, n).total
        )
    # A text that has no room for a prompt token and a round is of no use.
    ways = [f"limits.max_batch_size to {fewer}"] * (fewer > 0)
    ways += [f"limits.max_seq_len to {shorter}"] * (shorter >= draft_length + 2)
    if ways:
        return message, f"Lower {' or '.join(ways)}, or use a larger GPU."
    return message, "Use a larger GPU or a smaller pair."
