# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as transformers itself writes them are read with transformers' own meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from specbuild import config, pairing
from specbuild.checkpoint import Checkpoint
from specbuild.pairing.models import TESTED_BY_TORCH
from support import checkpoints
from support.checkpoints import Recipe

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def save(folder: Path, family: str, **changes: Any) -> transformers.PretrainedConfig:
    """A tiny random model of ``family`` with the tests' tokenizer; returns transformers' configuration."""
    settings = transformers.AutoConfig.for_model(family, **(SIZES | changes))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    checkpoints.tokenizer(Recipe()).save(str(folder / "tokenizer.json"))
    return settings


@pytest.mark.parametrize("family", sorted(TESTED_BY_TORCH))
def test_family_is_read_as_transformers_means_it(tmp_path: Path, family: str) -> None:
    written = save(tmp_path, family)
    checkpoint = Checkpoint.open(tmp_path)
    read = checkpoint.config
    assert read.model_type == family
    assert read.num_kv_heads == written.num_key_value_heads
    assert read.head_dim == getattr(written, "head_dim", None) or written.hidden_size // 4
    assert read.tie_word_embeddings == written.tie_word_embeddings
    assert read.context_length == 128
    assert read.sliding_window == getattr(written, "sliding_window", None)
    assert read.eos_ids == (1,)
    assert checkpoint.dtype == "bfloat16"


@pytest.mark.parametrize("family", sorted(TESTED_BY_TORCH))
def test_family_fits_the_torch_runtime(tmp_path: Path, family: str) -> None:
    save(tmp_path / "target", family, num_hidden_layers=6)
    save(tmp_path / "draft", family, num_hidden_layers=1)
    settings = config.validate(
        {
            "name": "tiny",
            "runtime": "torch",
            "target": {"checkpoint": str(tmp_path / "target")},
            "draft": {"checkpoint": str(tmp_path / "draft")},
            "limits": {"max_input_len": 60, "max_seq_len": 100},
            "output": "out",
        },
        source="test",
    )
    assert pairing.inspect(settings).findings == ()
