# SPDX-License-Identifier: Apache-2.0
"""A walk over a model's modules computes what its own code does; where it does not, that code is used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specbuild.torch_runtime.attention import Slots, attach
from specbuild.torch_runtime.kv_cache import KvCache
from specbuild.torch_runtime.module_walk import Forward, ModuleWalk, WholeModel, forward_of
from specbuild.torch_runtime.span import Span
from support import tiny_models

TOKENS = torch.tensor([1, 5, 9, 33, 20, 7, 63, 2])
LONGEST = 96


@torch.inference_mode()
def logits(model: torch.nn.Module, forward: Forward, rows: Tensor | None = None) -> Tensor:
    """After a prompt of eight tokens and the same eight again."""
    slots = Slots(KvCache(1, LONGEST))
    attach(model, slots)
    parts = []
    for start in (0, 8):
        slots.expect([Span(0, start, 8)], torch.device("cpu"))
        parts.append(forward(TOKENS, torch.arange(start, start + 8), rows))
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_same_bits_as_the_models_own_code(family: str, dtype: torch.dtype) -> None:
    model = tiny_models.model(family, dtype=dtype, attn_implementation="specbuild")
    forward = forward_of(model, LONGEST)
    for rows in (None, torch.tensor([2, 7])):
        assert torch.equal(logits(model, forward, rows), logits(model, WholeModel(model), rows))


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_what_is_like_llama_is_walked(family: str) -> None:
    model = tiny_models.model(family, attn_implementation="specbuild")
    # Gemma 2 caps its logits, and Gemma 3 has other angles for other layers.
    assert isinstance(forward_of(model, LONGEST), ModuleWalk) == (family not in {"gemma2", "gemma3"})


def test_a_model_that_does_more_than_its_modules_is_computed_by_its_own_code() -> None:
    model = tiny_models.model("llama", attn_implementation="specbuild")
    own = model.forward

    def halved(**arguments: object) -> object:
        output = own(**arguments)
        output.logits = output.logits / 2
        return output

    model.forward = halved  # type: ignore[method-assign]
    assert isinstance(forward_of(model, LONGEST), WholeModel)
