# SPDX-License-Identifier: Apache-2.0
"""Calls of the attention kernel: how its work is split, and the memory in which parts meet."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from specbuild.torch_runtime.cuda.attention_kernel import attention_kernel

# Block of keys and stages of the pipeline, the fastest first, as measured on an H100 at 1k and 16k. What does
# not fit into a program's shared memory is left out.
_SHAPES = ((128, 3), (128, 2), (64, 2), (32, 2))
_LEAST = 1
_PROGRAMS = 132
_WARPS = 8
_PACKED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Groups:
    """Tokens that are computed in one pass: ``count`` groups, each of one request and of consecutive tokens.

    Without ``firsts`` every group has ``tokens`` tokens and they follow each other; with them, group i has
    ``counts[i]`` tokens (at most ``tokens``) from row ``firsts[i]`` on.
    """

    count: int
    tokens: int
    shift: int
    slots: Tensor
    """int32 [count]; a slot beyond the last one marks a filler."""
    positions: Tensor
    """int32 [count]: where the first token of a group stands, less ``shift``."""
    row_slots: Tensor
    """int32: the slot of each row, or with ``row_tokens`` above 1 of each request's rows."""
    row_positions: Tensor
    row_tokens: int
    firsts: Tensor | None = None
    counts: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention of one model's layers, as far as it is the same for all of them."""

    queries: int
    keys: int
    size: int
    scaling: float


class Meeting:
    """Where the programs of a split leave their parts. One for all layers: they run one after the other.

    Captured graphs hold its addresses, so it is as large as any pass of up to ``tokens`` tokens of each
    request needs.
    """

    def __init__(self, heads: Heads, tokens: int, where: torch.device) -> None:
        rows = rows_per_program(tokens, heads.queries // heads.keys)
        lanes = 2 * _PROGRAMS * rows
        self.parts = torch.empty(lanes * _width(heads.size), device=where)
        self.tops = torch.empty(lanes, device=where)
        self.sums = torch.empty(lanes, device=where)
        self.arrivals = torch.zeros(2 * _PROGRAMS, dtype=torch.int32, device=where)


def _width(size: int) -> int:
    return max(16, int(triton.next_power_of_2(size)))


def rows_per_program(tokens: int, shared: int) -> int:
    """Rows of a program's products: queries of all heads that share keys, padded for the matrix units."""
    return max(16, int(triton.next_power_of_2(tokens * shared)))


def packed_tokens(shared: int) -> int:
    """Tokens in a group of a long pass."""
    return max(1, _PACKED_ROWS // shared)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    *,
    groups: Groups,
    heads: Heads,
    meeting: Meeting,
    slots: int,
    window: int | None = None,
    softcap: float | None = None,
) -> None:
    """out = attention of queries [rows, heads, size] over keys and values [slots, kv_heads, length, size]."""
    shared = heads.queries // heads.keys
    rows = rows_per_program(groups.tokens, shared)
    splits = 1
    if groups.firsts is None:
        splits = int(triton.next_power_of_2(max(1, min(32, _PROGRAMS // (groups.count * heads.keys)))))
    block, stages = _shape(_width(heads.size) * queries.element_size(), rows, queries.device)
    unused = groups.slots
    attention_kernel[(groups.count, heads.keys, splits)](
        queries, keys, values, out, groups.slots, groups.positions,
        unused if groups.firsts is None else groups.firsts,
        unused if groups.counts is None else groups.counts,
        meeting.parts, meeting.tops, meeting.sums, meeting.arrivals,
        groups.shift, heads.scaling, window or 0, softcap or 1.0, slots, keys.stride(0), keys.stride(1),
        T=groups.tokens,
        PACKED=groups.firsts is not None,
        HEADS=heads.queries,
        KV_HEADS=heads.keys,
        D=heads.size,
        DP=_width(heads.size),
        ROWS=rows,
        BLOCK=block,
        SPLITS=splits,
        LEAST=_LEAST,
        WINDOW=window is not None,
        SOFTCAP=softcap is not None,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=_WARPS,
        num_stages=stages,
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _shape(row_bytes: int, rows: int, where: torch.device) -> tuple[int, int]:
    """Block and stages for keys, values and queries of ``row_bytes`` each."""
    limit = shared_memory(where)
    for block, stages in _SHAPES:
        if (2 * block * (stages - 1) + 2 * rows) * row_bytes <= limit:
            return block, stages
    return _SHAPES[-1]


def shared_memory(where: torch.device) -> int:
    """Bytes of it that one program may have, less a little for the kernels' own use."""
    properties = torch.cuda.get_device_properties(where)
    return int(properties.shared_memory_per_block_optin) - 2048  # type: ignore[attr-defined]
