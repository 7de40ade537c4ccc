# SPDX-License-Identifier: Apache-2.0
"""Block shapes of the kernels for linear layers over few rows.

Chosen from sweeps on an H100 and an H200 with the layers of 8B and 1B Llamas: per class of layers the shape
that is within a few per cent of the best for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MOST_ROWS = 64
"""Up to this many rows the kernels here are used; beyond, cuBLAS."""

_WIDE = 8192
_NARROW = 2048


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program computes: ``columns`` columns of all rows, ``depth`` of K at a time."""

    columns: int
    depth: int
    warps: int
    stages: int


# By rows of a block: for at least _WIDE columns, for more than _NARROW, and for fewer.
_SINGLE = {
    16: (Tile(64, 256, 4, 3), Tile(16, 512, 2, 3), Tile(16, 512, 2, 5)),
    32: (Tile(64, 128, 4, 3), Tile(16, 256, 4, 5), Tile(16, 128, 4, 5)),
    64: (Tile(64, 128, 4, 3), Tile(32, 128, 4, 5), Tile(16, 128, 4, 5)),
}
_PAIRED = {
    16: (Tile(64, 128, 4, 3), Tile(8, 256, 2, 4), Tile(8, 128, 2, 5)),
    32: (Tile(64, 128, 4, 3), Tile(8, 256, 2, 3), Tile(8, 256, 2, 3)),
    64: (Tile(64, 128, 4, 3), Tile(32, 128, 4, 5), Tile(16, 128, 4, 5)),
}
_SINGLE_8_BIT = {
    16: (Tile(64, 256, 4, 3), Tile(16, 512, 2, 5), Tile(16, 256, 4, 5)),
    32: (Tile(128, 128, 8, 3), Tile(16, 256, 4, 5), Tile(16, 128, 4, 5)),
    64: (Tile(64, 128, 4, 3), Tile(32, 256, 4, 4), Tile(16, 256, 4, 5)),
}
_PAIRED_8_BIT = {
    16: (Tile(32, 128, 4, 4), Tile(32, 128, 4, 4), Tile(8, 128, 2, 5)),
    32: (Tile(64, 128, 4, 3), Tile(8, 256, 2, 3), Tile(8, 256, 2, 3)),
    64: (Tile(64, 128, 4, 3), Tile(32, 128, 4, 5), Tile(16, 128, 4, 5)),
}
_SQUARE = Tile(32, 256, 4, 4)
"""For up to 16 rows and between _NARROW and _WIDE columns, where the inputs are as few as those."""


def block_rows(rows: int) -> int:
    """Rows that a program computes; those beyond ``rows`` are zeros."""
    return 16 if rows <= 16 else 32 if rows <= 32 else 64


def tile(
    columns: int,
    depth: int,
    rows: int,
    *,
    paired: bool = False,
    divisor: int,
    weight_bytes: int,
    row_bytes: int,
    shared_memory: int,
) -> Tile:
    """The tile for ``columns`` outputs (or pairs of outputs) of ``depth`` inputs.

    Its columns divide ``divisor`` and its depth ``depth``; its stages, of weights and inputs of so many bytes
    each, fit into ``shared_memory`` bytes.
    """
    block = block_rows(rows)
    wanted = _wanted(columns, depth, block, paired=paired, eight_bits=weight_bytes == 1)
    width, deep, stages = wanted.columns, wanted.depth, wanted.stages
    while divisor % width:
        width //= 2
    while depth % deep:
        deep //= 2
    stage = width * (2 if paired else 1) * weight_bytes + block * row_bytes
    while stages > 2 and (stages - 1) * stage * deep > shared_memory:
        stages -= 1
    while deep > 16 and (stages - 1) * stage * deep > shared_memory:
        deep //= 2
    return replace(wanted, columns=width, depth=deep, stages=stages)


def _wanted(columns: int, depth: int, block: int, *, paired: bool, eight_bits: bool) -> Tile:
    if block == 16 and not paired and _NARROW < columns < _WIDE and depth <= columns:
        return _SQUARE
    singles, pairs = (_SINGLE_8_BIT, _PAIRED_8_BIT) if eight_bits else (_SINGLE, _PAIRED)
    kinds = (pairs if paired else singles)[block]
    return kinds[0] if columns >= _WIDE else kinds[1] if columns > _NARROW else kinds[2]
