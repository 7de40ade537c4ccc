# SPDX-License-Identifier: Apache-2.0
"""The memory plan against figures computed by hand and against what models really allocate."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from specbuild.planning import memory
from specbuild.synthetic import PLANTED_SHAPES
from specbuild.torch_runtime.decoder import Decoder
from specbuild.torch_runtime.span import Span
from support import tiny_models

# The sizes in config.json of meta-llama/Llama-3.1-8B and Llama-3.2-1B.
LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128_256,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
LLAMA_1B: dict[str, Any] = LLAMA_8B | {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "intermediate_size": 8192,
    "tie_word_embeddings": True,
}
SETTINGS: dict[str, Any] = {"max_seq_len": 1024, "draft_length": 7, "prefill_chunk": 256}


def test_published_models_have_their_published_sizes() -> None:
    large, small = memory.model_memory(LLAMA_8B), memory.model_memory(LLAMA_1B)
    assert large.weight_bytes == 2 * 8_030_261_248
    assert small.weight_bytes == 2 * 1_235_814_400
    assert large.kv_bytes_per_token == 131_072  # 2 x 32 layers x 8 heads x 128 x 2 bytes
    assert small.kv_bytes_per_token == 32_768
    # A step reads all but the 1.05 GB of the target's input embedding; the tied draft's is its output layer.
    assert large.bytes_per_step == 2 * (8_030_261_248 - 128_256 * 4096)
    assert small.bytes_per_step == small.weight_bytes


def test_a_plan_computed_by_hand() -> None:
    planned = memory.plan(memory.model_memory(LLAMA_8B), memory.model_memory(LLAMA_1B), slots=16, **SETTINGS)
    positions = 16 * 1056  # 1,024 + 7 + 1, rounded up to 32
    assert planned.target_kv == 131_072 * positions
    assert planned.draft_kv == 32_768 * positions
    # The verification's logits and a draft step's; float32 p of eight and q of seven tokens.
    assert planned.logits == 128_256 * 16 * (2 * 8 + 2 + 4 * 8 + 4 * 7)
    assert planned.workspace == 256 * 2 * (4 * 4096 + 128 * 48 + 3 * 14336)
    parts = planned.weights + planned.kv_cache + planned.logits + planned.workspace
    assert planned.total == parts
    assert planned.describe().startswith(f"{planned.total / 2**30:.1f} GiB (weights 17.3, KV cache 2.6,")


def test_without_a_draft_there_is_only_the_target() -> None:
    planned = memory.plan(
        memory.model_memory(LLAMA_8B), None, slots=2, max_seq_len=100, draft_length=0, sampled=False
    )
    assert planned.draft_weights == planned.draft_kv == 0
    assert planned.logits == 2 * 128_256 * 2


def test_known_bytes_win_over_the_formula() -> None:
    model = memory.model_memory(LLAMA_8B, weight_bytes=9_000_000_000)
    assert model.weight_bytes == 9_000_000_000
    assert model.bytes_per_step == 9_000_000_000 - 2 * 128_256 * 4096


def test_weights_in_8_bits_take_half_but_for_the_embedding() -> None:
    full, rounded = (memory.model_memory(LLAMA_1B, eight_bits=eight_bits) for eight_bits in (False, True))
    embedding = 2 * 128_256 * 2048
    assert rounded.embedding_bytes == embedding
    assert rounded.bytes_per_step == pytest.approx(full.bytes_per_step / 2, rel=0.01)
    assert rounded.weight_bytes == rounded.bytes_per_step + embedding
    assert rounded.kv_bytes_per_token == full.kv_bytes_per_token


def test_the_most_slots_fit_and_one_more_does_not() -> None:
    models = memory.model_memory(LLAMA_8B), memory.model_memory(LLAMA_1B)
    available = 80 << 30
    slots = memory.most_slots(available, *models, **SETTINGS)
    assert memory.plan(*models, slots=slots, **SETTINGS).total <= available
    assert memory.plan(*models, slots=slots + 1, **SETTINGS).total > available
    assert memory.most_slots(available, *models, limit=8, **SETTINGS) == 8
    assert memory.most_slots(1 << 30, *models, **SETTINGS) == 0


@pytest.mark.parametrize("name", ["target", "draft"])
def test_planted_shapes_agree(name: str) -> None:
    shape = PLANTED_SHAPES["llama-8b-1b"]
    config = {"target": LLAMA_8B, "draft": LLAMA_1B}[name] | {"tie_word_embeddings": False}
    parameters = getattr(shape, name).parameters(shape.vocab_size)
    assert memory.model_memory(config).weight_bytes == 2 * parameters


@pytest.mark.parametrize("tied", [False, True])
def test_a_loaded_model_allocates_what_was_planned(tmp_path: Path, tied: bool) -> None:
    """Weights and KV cache to the byte, for 3 slots of 90 tokens and 5 drafts; else only small constants."""
    folder = tiny_models.save(
        tmp_path / "model", "llama", num_hidden_layers=3, head_dim=16, tie_word_embeddings=tied
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    before = _bytes_of_tensors()
    decoder = Decoder.load(folder, slots=3, max_seq_len=90 + 5 + 1, where=torch.device("cpu"))
    with torch.inference_mode():
        decoder.forward(torch.zeros(1, dtype=torch.long), [Span(2, 95, 1)])
    allocated = _bytes_of_tensors() - before
    model = memory.model_memory(config, element_bytes=4)
    planned = memory.plan(model, None, slots=3, max_seq_len=90, draft_length=5)
    angles = 2 * 96 * 16 * 4
    constants = angles + 2 * 8 * 4 + 32 * 32 * 4  # rotary frequencies, and one mask for all
    assert planned.weights + planned.kv_cache <= allocated
    assert allocated <= planned.weights + planned.kv_cache + constants


def _bytes_of_tensors() -> int:
    """What all tensors of the process hold; tensors that share their memory count once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
