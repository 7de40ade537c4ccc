# SPDX-License-Identifier: Apache-2.0
"""The last product of attention does not depend on how many masked keys follow."""

from __future__ import annotations

import pytest
import torch

from specbuild.torch_runtime.device import has_bfloat16
from specbuild.torch_runtime.mixing import BLOCK, first_block, mix


@pytest.mark.skipif(not has_bfloat16(), reason="the processor computes bfloat16 by other means")
@pytest.mark.parametrize("rows", [3, 6, 27])
def test_keys_of_weight_zero_change_nothing(rows: int) -> None:
    dtype = torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 2048, 64, generator=generator).to(dtype)
    for keys in range(544, 1056, 64):
        weights = torch.randn(4, rows, keys, generator=generator).softmax(-1).to(dtype)
        padded = torch.nn.functional.pad(weights, (0, keys))
        assert torch.equal(mix(weights, values[:, :keys]), mix(padded, values[:, : 2 * keys]))


def test_it_is_the_product() -> None:
    weights, values = torch.rand(2, 3, 1100), torch.rand(2, 1100, 8)
    assert torch.allclose(mix(weights, values), weights @ values, rtol=1e-5)


def test_blocks_begin_at_fixed_places() -> None:
    assert [first_block(position) for position in (-5, 0, BLOCK - 1, BLOCK, 3 * BLOCK + 7)] == [
        0,
        0,
        0,
        BLOCK,
        3 * BLOCK,
    ]
