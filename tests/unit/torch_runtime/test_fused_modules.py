# SPDX-License-Identifier: Apache-2.0
"""Fused modules compute what transformers' own do, and only what is known to be equal is replaced."""

from __future__ import annotations

import pytest
import torch

from specbuild.torch_runtime.fused_modules import FusedRMSNorm, PartOfLinear, fuse
from support import tiny_models

TOKENS = torch.tensor([[1, 5, 9, 33, 20, 7, 63, 2]])


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_fused_model_computes_what_it_did(family: str) -> None:
    model = tiny_models.model(family)
    with torch.inference_mode():
        expected = model(input_ids=TOKENS).logits
        fuse(model)
        assert torch.allclose(model(input_ids=TOKENS).logits, expected, atol=1e-4, rtol=1e-4)
    parts = [module for module in model.modules() if isinstance(module, PartOfLinear)]
    assert len(parts) == 2 * 5


def test_only_llamas_kind_of_normalisation_is_replaced() -> None:
    def norms(family: str) -> int:
        model = tiny_models.model(family)
        fuse(model)
        return sum(isinstance(module, FusedRMSNorm) for module in model.modules())

    assert norms("llama") == 2 * 2 + 1
    assert norms("qwen3") == 2 * 4 + 1
    assert norms("gemma2") == 0


def test_a_layer_called_with_other_rows_computes_its_own() -> None:
    model = tiny_models.model("qwen2")
    mlp = model.model.layers[0].mlp
    rows = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = mlp.gate_proj(rows[0]), mlp.up_proj(rows[1])
        fuse(model)
        actual = mlp.gate_proj(rows[0]), mlp.up_proj(rows[1])
    assert torch.allclose(actual[0], expected[0], atol=1e-6)
    assert torch.allclose(actual[1], expected[1], atol=1e-6)
