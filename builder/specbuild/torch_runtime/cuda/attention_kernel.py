# SPDX-License-Identifier: Apache-2.0
"""Attention of a few query tokens over a slot, and the storing of keys and values, in Triton's language.

The keys of a slot are split among programs, as in Flash-Decoding (Dao et al., 2023), and only those that
the request has are read. The heads that share keys are rows of one product. The program that finishes
last joins the parts, in a fixed order, so that results do not vary from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["shift", "window", "slot_count", "T"])
def attention_kernel(
    queries,
    keys,
    values,
    out,
    slots,
    positions,
    firsts,
    counts,
    parts,
    tops,
    sums,
    arrivals,
    shift,
    scaling,
    window,
    softcap,
    slot_count,
    slot_step,
    head_step,
    T,
    PACKED: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Queries [rows, HEADS, D] → out, the same shape. Programs: (groups of tokens, KV_HEADS, SPLITS).

    Group i has T tokens from row i · T on, or with PACKED ``counts[i]`` ones from row ``firsts[i]`` on. Its
    first token is at ``positions[i]`` + shift of slot ``slots[i]``; all its keys are stored already.
    """
    group = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    slot = tl.load(slots + group)
    start = tl.load(positions + group) + shift
    if slot >= slot_count:
        return
    SHARED: tl.constexpr = HEADS // KV_HEADS
    if PACKED:
        first_row = tl.load(firsts + group)
        tokens = tl.load(counts + group)
    else:
        first_row = group * T
        tokens = T
    row = tl.arange(0, ROWS)
    token = row // SHARED
    here = token < tokens
    d = tl.arange(0, DP)
    at = ((first_row + token).to(tl.int64)[:, None] * HEADS + kv_head * SHARED + (row % SHARED)[:, None]) * D
    used = here[:, None] & (d < D)[None, :]
    q = tl.load(queries + at + d[None, :], mask=used, other=0.0)

    end = start + tokens
    lowest = 0
    if WINDOW:
        lowest = tl.maximum(start + 1 - window, 0) // BLOCK * BLOCK
    blocks = tl.cdiv(end - lowest, BLOCK)
    share = tl.maximum(tl.cdiv(blocks, SPLITS), LEAST)
    active = tl.cdiv(blocks, share)
    if split >= active:
        return
    begin = lowest + split * share * BLOCK
    stop = tl.minimum(begin + share * BLOCK, end)

    base = slot.to(tl.int64) * slot_step + kv_head.to(tl.int64) * head_step
    top = tl.full([ROWS], -1e30, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, DP], tl.float32)
    for first in range(begin, stop, BLOCK):
        key = first + tl.arange(0, BLOCK)
        inside = key < stop
        k = tl.load(
            keys + base + key[None, :] * D + d[:, None], mask=inside[None, :] & (d < D)[:, None], other=0.0
        )
        scores = tl.dot(q, k, input_precision=PRECISION) * scaling
        if SOFTCAP:
            # tanh by the exponential, which the interpreter has too.
            scores = softcap * (1 - 2 / (1 + tl.exp(2 * scores / softcap)))
        seen = inside[None, :] & (key[None, :] <= (start + token)[:, None])
        if WINDOW:
            seen &= key[None, :] > (start + token - window)[:, None]
        scores = tl.where(seen, scores * _LOG2E, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - higher)
        p = tl.where(seen, tl.exp2(scores - higher[:, None]), 0.0)
        weight = weight * shrink + tl.sum(p, 1)
        v = tl.load(
            values + base + key[:, None] * D + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0
        )
        mixed = tl.dot(p.to(v.dtype), v, mixed * shrink[:, None], input_precision=PRECISION)
        top = higher

    if active > 1:
        place = (group * KV_HEADS + kv_head) * SPLITS
        lane = (place + split) * ROWS + row
        tl.store(parts + lane[:, None] * DP + d[None, :], mixed)
        tl.store(tops + lane, top)
        tl.store(sums + lane, weight)
        tl.debug_barrier()
        before = tl.atomic_add(arrivals + group * KV_HEADS + kv_head, 1, sem="acq_rel")
        if before < active - 1:
            return
        tl.debug_barrier()
        top = tl.full([ROWS], -1e30, tl.float32)
        weight = tl.zeros([ROWS], tl.float32)
        mixed = tl.zeros([ROWS, DP], tl.float32)
        for other in range(0, active):
            lane = (place + other) * ROWS + row
            its_top = tl.load(tops + lane, cache_modifier=".cg")
            its_weight = tl.load(sums + lane, cache_modifier=".cg")
            its_mixed = tl.load(parts + lane[:, None] * DP + d[None, :], cache_modifier=".cg")
            higher = tl.maximum(top, its_top)
            mine = tl.exp2(top - higher)
            its = tl.exp2(its_top - higher)
            weight = weight * mine + its_weight * its
            mixed = mixed * mine[:, None] + its_mixed * its[:, None]
            top = higher
        tl.store(arrivals + group * KV_HEADS + kv_head, 0)
    tl.store(out + at + d[None, :], (mixed / weight[:, None]).to(out.dtype.element_ty), mask=used)


@triton.jit(do_not_specialize=["shift", "slot_count", "T"])
def store_kernel(
    qkv,
    queries,
    keys,
    values,
    query_gamma,
    key_gamma,
    cosines,
    sines,
    slots,
    positions,
    shift,
    eps,
    slot_count,
    slot_step,
    head_step,
    T,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_P: tl.constexpr,
    ROTATE: tl.constexpr,
    NORM: tl.constexpr,
):
    """Rows of qkv [M, (HEADS + 2 · KV_HEADS) · 2 · HALF] → rotated queries; keys and values in their slots.

    Programs: (M, HEADS + 2 · KV_HEADS). Row m is token m % T of request m ÷ T. With NORM,
    queries and keys are normalised before, each head by itself.
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    j = tl.arange(0, HALF_P)
    inside = j < HALF
    source = qkv + (row.to(tl.int64) * (HEADS + 2 * KV_HEADS) + head) * 2 * HALF + j
    a = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    kind = queries.dtype.element_ty
    position = tl.load(positions + row // T) + shift + row % T
    if head < HEADS + KV_HEADS:
        if NORM:
            scale = tl.rsqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / (2 * HALF) + eps)
            gamma = key_gamma
            if head < HEADS:
                gamma = query_gamma
            a = (a * scale).to(kind).to(tl.float32) * tl.load(gamma + j, mask=inside, other=0.0).to(
                tl.float32
            )
            b = (b * scale).to(kind).to(tl.float32) * tl.load(gamma + HALF + j, mask=inside, other=0.0).to(
                tl.float32
            )
        if ROTATE:
            cos = tl.load(cosines + position * HALF + j, mask=inside, other=0.0).to(tl.float32)
            sin = tl.load(sines + position * HALF + j, mask=inside, other=0.0).to(tl.float32)
            turned = a * cos - b * sin
            b = b * cos + a * sin
            a = turned
    if head < HEADS:
        at = queries + (row.to(tl.int64) * HEADS + head) * 2 * HALF + j
        tl.store(at, a.to(kind), mask=inside)
        tl.store(at + HALF, b.to(kind), mask=inside)
    else:
        slot = tl.load(slots + row // T)
        inside &= slot < slot_count
        place = slot.to(tl.int64) * slot_step + position * 2 * HALF + j
        if head < HEADS + KV_HEADS:
            place += (head - HEADS) * head_step
            tl.store(keys + place, a.to(kind), mask=inside)
            tl.store(keys + place + HALF, b.to(kind), mask=inside)
        else:
            place += (head - HEADS - KV_HEADS) * head_step
            tl.store(values + place, a.to(kind), mask=inside)
            tl.store(values + place + HALF, b.to(kind), mask=inside)


@triton.jit
def add_norm_kernel(hidden, change, gamma, out, N, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """hidden [M, N] += change; out = its normalisation times gamma. One program per row, BLOCK ≥ N."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    inside = n < N
    kind = hidden.dtype.element_ty
    h = tl.load(hidden + row * N + n, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        h += tl.load(change + row * N + n, mask=inside, other=0.0).to(tl.float32)
        tl.store(hidden + row * N + n, h.to(kind), mask=inside)
        h = h.to(kind).to(tl.float32)
    scale = tl.rsqrt(tl.sum(h * h, 0) / N + eps)
    g = tl.load(gamma + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * N + n, ((h * scale).to(kind).to(tl.float32) * g).to(kind), mask=inside)


@triton.jit
def gate_kernel(both, out, N, BLOCK: tl.constexpr):
    """silu(gate) · up of rows [M, 2 N] → [M, N]. Programs: (M, blocks of N)."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    gate = tl.load(both + row * 2 * N + n, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * N + N + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * N + n, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)
