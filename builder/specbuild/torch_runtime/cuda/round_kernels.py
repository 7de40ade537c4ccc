# SPDX-License-Identifier: Apache-2.0
"""The beginning and the end of a round, in Triton's language: one small program per row of the batch."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["width", "grid_step", "slot_count"])
def begin_kernel(
    orders,
    width,
    length,
    last,
    previous,
    remaining,
    slots,
    positions,
    limits,
    pairs,
    grid,
    grid_step,
    slot_count,
):
    """Lay out what the round of each row reads: where it stands, its last two tokens, how far it may draft.

    ``orders`` float64 [rows, width] begin with the row's slot and its most draft tokens. A round's own token
    must fit into what remains of the request, so the last rounds draft less.
    """
    row = tl.program_id(0)
    slot = tl.load(orders + row * width).to(tl.int32)
    wanted = tl.load(orders + row * width + 1).to(tl.int32)
    left = tl.load(remaining + slot)
    token = tl.load(last + slot)
    tl.store(slots + row, slot)
    tl.store(positions + row, tl.load(length + slot))
    tl.store(limits + row, tl.maximum(tl.minimum(wanted, left - 1), 0))
    tl.store(pairs + row * 2, tl.load(previous + slot))
    tl.store(pairs + row * 2 + 1, token)
    tl.store(grid + row * grid_step, token)


@triton.jit(do_not_specialize=["grid_step", "outcome_step", "drafted", "slot_count"])
def settle_kernel(
    choices,
    accepted_by,
    following_by,
    grid,
    limits,
    slots,
    length,
    last,
    previous,
    remaining,
    outcome,
    grid_step,
    outcome_step,
    drafted,
    slot_count,
    GREEDY: tl.constexpr,
):
    """Decide which draft tokens stand, tell the host in ``outcome``, and move the requests on.

    ``grid`` [rows, 1 + drafted] holds the last token and the draft tokens. With GREEDY a draft token
    stands while it is the target's own choice (``choices`` [rows, 1 + drafted]); otherwise ``accepted_by``
    and ``following_by`` say what was decided. A row of ``outcome``: accepted, following token, draft tokens.
    """
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    limit = tl.load(limits + row)
    if GREEDY:
        accepted = limit * 0
        going = accepted + 1
        for j in range(0, drafted):
            proposed = tl.load(grid + row * grid_step + j + 1)
            chosen = tl.load(choices + row * grid_step + j)
            going = going & (proposed == chosen).to(tl.int32) & (j < limit).to(tl.int32)
            accepted += going
        following = tl.load(choices + row * grid_step + accepted)
    else:
        accepted = tl.load(accepted_by + row).to(tl.int32)
        following = tl.load(following_by + row)
    tl.store(outcome + row * outcome_step, accepted.to(tl.int64))
    tl.store(outcome + row * outcome_step + 1, following)
    for j in range(0, drafted):
        tl.store(outcome + row * outcome_step + 2 + j, tl.load(grid + row * grid_step + j + 1))
    left = tl.load(remaining + slot)
    # A request that has ended stands still until the host takes it out; a filler always does.
    if (slot < slot_count) & (left > 0):
        tl.store(previous + slot, tl.load(grid + row * grid_step + accepted))
        tl.store(last + slot, following)
        tl.store(length + slot, tl.load(length + slot) + accepted + 1)
        tl.store(remaining + slot, left - accepted - 1)
