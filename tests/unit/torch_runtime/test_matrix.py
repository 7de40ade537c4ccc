# SPDX-License-Identifier: Apache-2.0
"""Weights in 8 bits: what rounding them changes, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specbuild.errors import EngineError
from specbuild.torch_runtime.cuda.matrix import Matrix, in_8_bits
from specbuild.torch_runtime.cuda.tiles import block_rows, tile
from support import running, tiny_models


def weights(rows: int = 9000, columns: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-6, 3, rows)[:, None]
    return (torch.randn(rows, columns, generator=generator) * scale).bfloat16()


def test_no_entry_moves_by_more_than_half_a_step() -> None:
    original = weights()
    rounded = in_8_bits(original)
    assert rounded.scales is not None
    step = original.float().abs().amax(1) / 127
    moved = (rounded.values.float() * rounded.scales[:, None] - original.float()).abs().amax(1)
    assert (moved <= 0.5001 * step).all()
    assert torch.allclose(rounded.scales, step)
    assert int(rounded.values.abs().max()) == 127


def test_a_row_of_zeros_stays_zero() -> None:
    rounded = in_8_bits(torch.zeros(3, 8, dtype=torch.bfloat16))
    assert torch.equal(rounded.times(torch.ones(2, 8, dtype=torch.bfloat16)), torch.zeros(2, 3).bfloat16())


@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_the_rounded_weights(bias: bool) -> None:
    original = weights(64, 128).float()
    rows = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    added = torch.linspace(-1, 1, 64) if bias else None
    rounded = in_8_bits(original)
    assert rounded.scales is not None
    dense = Matrix(rounded.values.float() * rounded.scales[:, None])
    assert torch.allclose(rounded.times(rows, added), dense.times(rows, added), rtol=1e-4, atol=1e-5)


def test_float16_holds_products_whose_integers_it_could_not() -> None:
    generator = torch.Generator().manual_seed(2)
    original = torch.randn(64, 4096, generator=generator) * 0.02
    rows = torch.randn(8, 4096, generator=generator) * 30
    got = in_8_bits(original.half()).times(rows.half()).float()
    assert torch.isfinite(got).all()
    assert torch.allclose(got, rows @ original.T, atol=1.5, rtol=0.05)


def test_a_cpu_refuses_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tiny_models.save(tmp_path_factory.mktemp("model"), "llama")
    with (
        pytest.raises(EngineError, match="need a GPU"),
        running.engine(folder, None, target_quantization="int8_wo"),
    ):
        pass


def test_settings_know_one_format(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="int8_wo"),
        running.engine(tmp_path, None, draft_quantization="fp8"),
    ):
        pass


@pytest.mark.parametrize("weight_bytes", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 16, 17, 33, 64])
@pytest.mark.parametrize(
    ("columns", "depth", "paired"), [(4096, 4096, False), (4096, 14336, False), (96, 64, True)]
)
def test_tiles_divide_the_layer_and_fit_into_shared_memory(
    weight_bytes: int, rows: int, columns: int, depth: int, paired: bool
) -> None:
    row_bytes = max(2, weight_bytes)
    cut = tile(
        columns, depth, rows, paired=paired, divisor=columns, weight_bytes=weight_bytes, row_bytes=row_bytes,
        shared_memory=100_000,
    )  # fmt: skip
    assert columns % cut.columns == 0
    assert depth % cut.depth == 0
    stage = cut.columns * (1 + paired) * weight_bytes + block_rows(rows) * row_bytes
    assert (cut.stages - 1) * stage * cut.depth <= 100_000
