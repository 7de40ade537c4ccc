# SPDX-License-Identifier: Apache-2.0
"""The weights of a product, as they are or in 8 bits.

In 8 bits row n of the weights [N, K] is stored as integers from -127 to 127, of which one counts
max |row n| ÷ 127 (symmetric rounding per output channel, as TensorRT-LLM's int8_wo). The integers are exact
in bfloat16 and float16, and the sums are those of the plain weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_LARGEST = 127
_ROWS = 8192
"""Rounded at a time: float32 copies of all would need four times the memory."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights [N, K]; with ``scales`` float32 [N] row n counts times scales[n]."""

    values: Tensor
    scales: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(N, K)."""
        return self.values.shape

    def times(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """rows [..., K] → [..., N], for many rows."""
        if self.scales is None:
            return nn.functional.linear(rows, self.values, bias)
        # Most of the scale goes into the weights, exactly, as a power of two: float16 could not hold the
        # product of the integers.
        mantissas, exponents = torch.frexp(self.scales)
        widened = torch.ldexp(self.values.to(rows.dtype), exponents[:, None]).to(rows.dtype)
        product = nn.functional.linear(rows, widened).float() * mantissas
        return (product if bias is None else product + bias).to(rows.dtype)


def in_8_bits(weights: Tensor) -> Matrix:
    """``weights`` [N, K], rounded; for a row of zeros all is zero."""
    values = torch.empty(weights.shape, dtype=torch.int8, device=weights.device)
    scales = torch.empty(len(weights), device=weights.device)
    for start in range(0, len(weights), _ROWS):
        part = weights[start : start + _ROWS].float()
        scale = part.abs().amax(1) / _LARGEST
        scales[start : start + _ROWS] = scale
        values[start : start + _ROWS] = (
            part / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        ).round()
    return Matrix(values, scales)
