# SPDX-License-Identifier: Apache-2.0
"""Linear layers over a few rows, in Triton's language, with what precedes and follows them.

With few rows a layer is as fast as its weights can be read, and every further kernel costs a few
microseconds. So a product carries its neighbours along: the normalisation of its input, and the rotary
embedding, the residual or the activation of its output.

The normalisation is split in two. Whoever writes the residual stream h also writes h · gamma, rounded, and
the sums of h² over its own columns; the next product reads h · gamma and divides its result by the root of
the mean square, which is the same number for a whole row. Nothing is summed in an order that varies: a row
has, bit for bit, the same result whatever other rows are in the pass, as long as ``BM`` is the same.

All kernels: M rows of x [M, K] times the transposed weights [N, K]; a program has BN columns and all of K,
which BK divides. With SCALED the weights are in 8 bits, and column n of the result counts times scales[n].

A kernel costs some four microseconds besides its reading: what takes longest to arrive of what the end of a
program needs is loaded at its beginning, where waiting for it costs nothing. Tried on an H200 and slower,
each time inside a graph: programmatic dependent launch (2 µs more per kernel); having the next weights, or
only the first of each row, brought to the L2 cache by the kernel before (4 to 25 % more per step); the whole
layer as one kernel whose programs meet between its parts (82 µs instead of 55 for the 1B shape).
"""

from __future__ import annotations

import triton
import triton.language as tl

_SUMS: tl.constexpr = tl.constexpr(32)


@triton.jit
def _product(
    x,
    w,
    columns,
    M,
    K,
    row_step,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows = tl.arange(0, BM)
    k = tl.arange(0, BK)
    x_at = x + rows[:, None] * row_step + k[None, :]
    w_at = w + columns.to(tl.int64)[None, :] * K + k[:, None]
    sums = tl.zeros([BM, BN], dtype=tl.float32)
    for start in range(0, K, BK):
        left = tl.load(x_at + start, mask=rows[:, None] < M, other=0.0)
        right = tl.load(w_at + start, eviction_policy="evict_first")
        sums = tl.dot(left, right.to(left.dtype), sums, input_precision=PRECISION)
    return sums


@triton.jit
def _two_products(
    x, w, first, second, M, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr
):
    """For two sets of columns; x is read once."""
    rows = tl.arange(0, BM)
    k = tl.arange(0, BK)
    x_at = x + rows[:, None] * K + k[None, :]
    first_at = w + first.to(tl.int64)[None, :] * K + k[:, None]
    second_at = w + second.to(tl.int64)[None, :] * K + k[:, None]
    a = tl.zeros([BM, BN], dtype=tl.float32)
    b = tl.zeros([BM, BN], dtype=tl.float32)
    for start in range(0, K, BK):
        left = tl.load(x_at + start, mask=rows[:, None] < M, other=0.0)
        one = tl.load(first_at + start, eviction_policy="evict_first")
        two = tl.load(second_at + start, eviction_policy="evict_first")
        a = tl.dot(left, one.to(left.dtype), a, input_precision=PRECISION)
        b = tl.dot(left, two.to(left.dtype), b, input_precision=PRECISION)
    return a, b


@triton.jit
def _load_squares(
    squares, parts, row_of_squares, M, STRIDE: tl.constexpr, PARTS: tl.constexpr, BM: tl.constexpr
):
    """``parts`` sums of squares of each row: [PARTS, BM]."""
    part = tl.arange(0, PARTS)[:, None]
    inside = (part < parts) & (tl.arange(0, BM)[None, :] < M)
    return tl.load(squares + part * STRIDE + row_of_squares[None, :], mask=inside, other=0.0)


@triton.jit
def _scale(total, K, eps):
    """1 ÷ root mean square of each row of K numbers, from the sums of their squares."""
    return tl.rsqrt(total / K + eps)


@triton.jit(do_not_specialize=["token_step", "T", "vocab", "shift"])
def embed_kernel(
    tokens,
    token_step,
    T,
    table,
    vocab,
    gamma,
    hidden,
    scaled,
    squares,
    cosines,
    sines,
    positions,
    shift,
    turns,
    K,
    HALF: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows of the embedding table, the same times gamma, and their sums of squares. One program per row.

    Row m is token m % T of request m ÷ T, whose tokens start at request · token_step. The cosines and sines
    of its position go to ``turns`` [2, STRIDE, HALF]: there every layer finds them without its position.
    """
    row = tl.program_id(0)
    position = tl.load(positions + row // T) + shift + row % T
    j = tl.arange(0, HALF)
    tl.store(turns + row * HALF + j, tl.load(cosines + position * HALF + j))
    tl.store(turns + (STRIDE + row) * HALF + j, tl.load(sines + position * HALF + j))
    token = tl.load(tokens + (row // T) * token_step + row % T)
    token = tl.minimum(token, vocab - 1).to(tl.int64)
    total = 0.0
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        h = tl.load(table + token * K + k, mask=k < K, other=0.0)
        tl.store(hidden + row * K + k, h, mask=k < K)
        g = tl.load(gamma + k, mask=k < K, other=0.0).to(tl.float32)
        h = h.to(tl.float32)
        tl.store(scaled + row * K + k, (h * g).to(scaled.dtype.element_ty), mask=k < K)
        total += tl.sum(h * h, 0)
    tl.store(squares + row, total)


@triton.jit(do_not_specialize=["M", "parts", "shift", "slot_count", "T"])
def qkv_kernel(
    x,
    w,
    scales,
    bias,
    queries,
    keys,
    values,
    turns,
    slots,
    positions,
    squares,
    parts,
    M,
    K,
    eps,
    shift,
    slot_count,
    slot_step,
    head_step,
    T,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STRIDE: tl.constexpr,
    PARTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Normalised x → rotated queries [M, heads, 2 · HALF], and keys and values in their slots.

    A program has BN pairs of dimensions (j, j + HALF) of one head. Rows of a slot ``slot_count`` and
    above are fillers and store nothing.
    """
    start = tl.program_id(0) * BN
    head = start // HALF
    j = start % HALF + tl.arange(0, BN)
    first = head * 2 * HALF + j
    rows = tl.arange(0, BM)
    here = rows < M
    sums = _load_squares(squares, parts, rows, M, STRIDE, PARTS, BM)
    angle = rows[:, None] * HALF + j[None, :]
    cos = tl.load(turns + angle, mask=here[:, None], other=0.0)
    sin = tl.load(turns + STRIDE * HALF + angle, mask=here[:, None], other=0.0)
    position = tl.load(positions + rows // T, mask=here, other=0) + shift + rows % T
    slot = tl.load(slots + rows // T, mask=here, other=slot_count)
    a, b = _two_products(x, w, first, first + HALF, M, K, BM, BN, BK, PRECISION)
    scale = _scale(tl.sum(sums, 0), K, eps)[:, None]
    a *= scale
    b *= scale
    if SCALED:
        a *= tl.load(scales + first)[None, :]
        b *= tl.load(scales + first + HALF)[None, :]
    if HAS_BIAS:
        a += tl.load(bias + first).to(tl.float32)[None, :]
        b += tl.load(bias + first + HALF).to(tl.float32)[None, :]
    if head < HEADS + KV_HEADS:
        turned = a * cos.to(tl.float32) - b * sin.to(tl.float32)
        b = b * cos.to(tl.float32) + a * sin.to(tl.float32)
        a = turned
    kind = queries.dtype.element_ty
    if head < HEADS:
        at = queries + (rows[:, None] * HEADS + head) * 2 * HALF + j[None, :]
        tl.store(at, a.to(kind), mask=here[:, None])
        tl.store(at + HALF, b.to(kind), mask=here[:, None])
    else:
        stored = (here & (slot < slot_count))[:, None]
        place = slot.to(tl.int64)[:, None] * slot_step + position[:, None] * 2 * HALF + j[None, :]
        if head < HEADS + KV_HEADS:
            place += (head - HEADS) * head_step
            tl.store(keys + place, a.to(kind), mask=stored)
            tl.store(keys + place + HALF, b.to(kind), mask=stored)
        else:
            place += (head - HEADS - KV_HEADS) * head_step
            tl.store(values + place, a.to(kind), mask=stored)
            tl.store(values + place + HALF, b.to(kind), mask=stored)


@triton.jit(do_not_specialize=["M"])
def residual_kernel(
    x,
    w,
    scales,
    bias,
    hidden,
    gamma,
    scaled,
    squares,
    M,
    N,
    K,
    HAS_BIAS: tl.constexpr,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    SCALED: tl.constexpr,
):
    """hidden [M, N] += x · w; then hidden · gamma, and the sums of squares of each program's columns."""
    program = tl.program_id(0)
    columns = program * BN + tl.arange(0, BN)
    sums = _product(x, w, columns, M, K, K, BM, BN, BK, PRECISION)
    if SCALED:
        sums *= tl.load(scales + columns)[None, :]
    if HAS_BIAS:
        sums += tl.load(bias + columns).to(tl.float32)[None, :]
    rows = tl.arange(0, BM)
    here = rows[:, None] < M
    at = rows[:, None] * N + columns[None, :]
    kind = hidden.dtype.element_ty
    h = (tl.load(hidden + at, mask=here, other=0.0).to(tl.float32) + sums).to(kind)
    tl.store(hidden + at, h, mask=here)
    h = h.to(tl.float32)
    g = tl.load(gamma + columns).to(tl.float32)
    tl.store(scaled + at, (h * g[None, :]).to(kind), mask=here)
    tl.store(squares + program * STRIDE + rows, tl.sum(h * h, 1), mask=rows < M)


@triton.jit(do_not_specialize=["M", "parts"])
def gated_kernel(
    x,
    w,
    scales,
    out,
    squares,
    parts,
    M,
    N,
    K,
    eps,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Normalised x → silu(gate) · up [M, N]; the weights are [2 N, K], the gate first."""
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    gate, up = _two_products(x, w, columns, columns + N, M, K, BM, BN, BK, PRECISION)
    rows = tl.arange(0, BM)
    # Many programs take turns here, so waiting costs little, and the registers are needed.
    total = tl.zeros([BM], dtype=tl.float32)
    for start in range(0, parts, _SUMS):
        total += tl.sum(_load_squares(squares + start * STRIDE, parts - start, rows, M, STRIDE, _SUMS, BM), 0)
    scale = _scale(total, K, eps)[:, None]
    gate *= scale
    up *= scale
    if SCALED:
        gate *= tl.load(scales + columns)[None, :]
        up *= tl.load(scales + columns + N)[None, :]
    product = gate * tl.sigmoid(gate) * up
    at = out + rows[:, None] * N + columns[None, :]
    tl.store(at, product.to(out.dtype.element_ty), mask=rows[:, None] < M)


@triton.jit(do_not_specialize=["M", "parts", "T"])
def logits_kernel(
    x,
    w,
    scales,
    out,
    best,
    index,
    squares,
    parts,
    M,
    N,
    K,
    eps,
    T,
    CHOOSE: tl.constexpr,
    STRIDE: tl.constexpr,
    PARTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Normalised x → logits [M, N] of the last of every T rows; or, with CHOOSE, each program's largest.

    ``best`` and ``index`` are [programs, STRIDE]: the largest logit as it would be stored, and the first
    column that has it.
    """
    program = tl.program_id(0)
    columns = program * BN + tl.arange(0, BN)
    inside = columns < N
    columns = tl.where(inside, columns, 0)
    rows = tl.arange(0, BM)
    squared = _load_squares(squares, parts, rows * T + T - 1, M, STRIDE, PARTS, BM)
    sums = _product(x + (T - 1) * K, w, columns, M, K, T * K, BM, BN, BK, PRECISION)
    scale = _scale(tl.sum(squared, 0), K, eps)
    if SCALED:
        sums *= tl.load(scales + columns)[None, :]
    logits = (sums * scale[:, None]).to(x.dtype.element_ty)
    if CHOOSE:
        ranked = tl.where(inside[None, :], logits.to(tl.float32), -float("inf"))
        largest, place = tl.max(ranked, 1, return_indices=True, return_indices_tie_break_left=True)
        tl.store(best + program * STRIDE + rows, largest, mask=rows < M)
        tl.store(index + program * STRIDE + rows, program * BN + place, mask=rows < M)
    else:
        at = out + rows[:, None].to(tl.int64) * N + columns[None, :]
        tl.store(at, logits, mask=(rows[:, None] < M) & inside[None, :])


@triton.jit(do_not_specialize=["programs", "out_step", "T"])
def choose_kernel(best, index, programs, out, out_step, T, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """The column of the largest logit of each row, the first of equals. One program per row.

    Row m is stored as entry m % T of request m ÷ T, whose entries start at request · out_step.
    """
    row = tl.program_id(0)
    largest = tl.full([BLOCK], -float("inf"), tl.float32)
    column = tl.full([BLOCK], 2147483647, tl.int32)
    for start in range(0, programs, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(best + at * STRIDE + row, mask=at < programs, other=-float("inf"))
        where = tl.load(index + at * STRIDE + row, mask=at < programs, other=2147483647)
        column = tl.where(value > largest, where, column)
        largest = tl.maximum(value, largest)
    top = tl.max(largest, 0)
    choice = tl.min(tl.where(largest == top, column, 2147483647), 0)
    tl.store(out + (row // T) * out_step + row % T, choice.to(tl.int64))
