# SPDX-License-Identifier: Apache-2.0
"""The last product of attention, summed in an order that does not depend on how many keys there are.

oneDNN divides a long sum differently for different lengths (seen beyond 512 keys in bfloat16), so a token
would differ in its last bits between a verification and plain decoding. Blocks of fixed places do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 512
"""Keys in one product. Where keys are left out in front, whole blocks are."""


def mix(weights: Tensor, values: Tensor) -> Tensor:
    """Weights [b, n, keys] · values [b, keys, d] → [b, n, d]; keys of weight 0 at the end change nothing."""
    product = torch.bmm(weights[..., :BLOCK], values[:, :BLOCK])
    if weights.shape[-1] <= BLOCK:
        return product
    total = product.float()
    for start in range(BLOCK, weights.shape[-1], BLOCK):
        total += torch.bmm(weights[..., start : start + BLOCK], values[:, start : start + BLOCK])
    return total.to(values.dtype)


def first_block(position: int) -> int:
    """Where the block that holds ``position`` begins."""
    return max(0, position) // BLOCK * BLOCK
