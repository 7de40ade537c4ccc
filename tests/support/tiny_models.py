# SPDX-License-Identifier: Apache-2.0
"""Tiny random checkpoints in Hugging Face format, one maker for each family of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCAB_SIZE = 64
MAX_POSITIONS = 128
WINDOW = 16

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": MAX_POSITIONS,
    # Wide enough for the next-token distributions to differ from token to token.
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}

_ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "gemma": ("Gemma", {"tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2",
        {
            **_ALTERNATING,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 10.0,
            "query_pre_attn_scalar": 16,
        },
    ),
    "gemma3": ("Gemma3", {**_ALTERNATING, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}),
}


def config(family: str, **changes: Any) -> Any:
    """The configuration of a tiny model of ``family``; ``changes`` override its settings."""
    name, settings = FAMILIES[family]
    kind = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")
    return kind(**{**_COMMON, **settings, **changes})


def model(
    family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    """A model of ``family`` with random weights that depend on ``seed`` only."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: PreTrainedModel = getattr(transformers, f"{FAMILIES[family][0]}ForCausalLM")(
            config(family, **changes)
        )
    return made.to(dtype).eval()


def save(
    folder: Path, family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """``folder``, now holding such a model as config.json and safetensors."""
    model(family, seed=seed, dtype=dtype, **changes).save_pretrained(folder, safe_serialization=True)
    return folder


def save_related(folder: Path, *, like: Path, noise: float, seed: int = 1) -> Path:
    """``folder``, now holding the model in ``like`` with noise on its weights: a draft that often agrees."""
    made = load(like)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            deviation = noise * parameter.float().std(correction=0)
            parameter.add_(
                (torch.randn(parameter.shape, generator=generator) * deviation).to(parameter.dtype)
            )
    made.save_pretrained(folder, safe_serialization=True)
    return folder


def load(folder: Path) -> PreTrainedModel:
    """The model in ``folder`` as transformers runs it."""
    made: PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return made.eval()
