# SPDX-License-Identifier: Apache-2.0
"""Factors of a table as the weights of a Llama model, and the logits that such a model yields.

The residual stream holds a token's row of factors from the embedding to the output layer, because
``o_proj`` and ``down_proj`` are zero. Every row has a mean square of 1, so the final RMS norm leaves it
as it is; the last dimension, which no successor but the special tokens reads, makes up the difference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from specbuild.synthetic.bigram import Factors
from specbuild.synthetic.shapes import ModelShape
from specbuild.synthetic.tokenizer import BOS_ID, EOS_ID

NORM_EPS = 1e-5
_NEVER = -30.0  # logit of a token that must not come: its probability is below 1e-12
DTYPE = torch.bfloat16
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
"""Names of the weights outside the layers."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends of a model, [V, hidden] bfloat16 each."""

    embedding: torch.Tensor
    head: torch.Tensor


def ends(factors: Factors, hidden: int) -> Ends:
    """The factors padded to ``hidden`` with rows of equal norm; begin and end tokens never follow.

    A text has no natural end for a bigram model, so every generation runs to its length limit.
    """
    vocab_size, rank = factors.left.shape
    squares = factors.left.square().sum(1)
    total = 1.1 * squares.max()  # above 1, so that the last dimension is positive in every row
    scale = math.sqrt(hidden / total)
    embedding, head = torch.zeros(2, vocab_size, hidden)
    embedding[:, :rank] = factors.left * scale
    embedding[:, -1] = (total - squares).sqrt() * scale
    head[:, :rank] = factors.right / scale
    for token in (BOS_ID, EOS_ID):
        head[token] = 0
        head[token, -1] = _NEVER / embedding[:, -1].min()
    return Ends(embedding.to(DTYPE), head.to(DTYPE))


def logits(model: Ends) -> torch.Tensor:
    """[V, V] float32: the logits after each token, rounded as the model's own forward pass does."""
    wide = model.embedding.float()
    norm = torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)
    return torch.nn.functional.linear((wide * norm).to(DTYPE), model.head).float()


def write(folder: Path, model: Ends, shape: ModelShape, *, max_positions: int, seed: int) -> None:
    """``config.json``, ``generation_config.json`` and ``model.safetensors`` in ``folder``."""
    generator = torch.Generator().manual_seed(seed)

    def random(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) / math.sqrt(columns)).to(DTYPE)

    tensors = {
        EMBEDDING: model.embedding,
        HEAD: model.head,
        FINAL_NORM: torch.ones(shape.hidden, dtype=DTYPE),
    }
    for index in range(shape.layers):
        tensors |= dict(layer(shape, index, random))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors lets only the owner read; a server often runs as somebody else.
    (folder / "model.safetensors").chmod(0o644)
    write_configuration(folder, shape, len(model.head), max_positions=max_positions)


def write_configuration(folder: Path, shape: ModelShape, vocab_size: int, *, max_positions: int) -> None:
    """``config.json`` and ``generation_config.json`` in ``folder``."""
    _write_json(folder / "config.json", _config(shape, vocab_size, max_positions))
    generation = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID, "do_sample": False}
    _write_json(folder / "generation_config.json", generation)


def layer(
    shape: ModelShape, index: int, random: Callable[[int, int], torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of one layer, which adds nothing to the residual stream.

    Those before its two output projections come from ``random`` (rows, columns), so that the arithmetic is
    a real model's.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    prefix = f"model.layers.{index}"
    yield f"{prefix}.input_layernorm.weight", torch.ones(shape.hidden, dtype=DTYPE)
    yield f"{prefix}.self_attn.q_proj.weight", random(queries, shape.hidden)
    yield f"{prefix}.self_attn.k_proj.weight", random(keys, shape.hidden)
    yield f"{prefix}.self_attn.v_proj.weight", random(keys, shape.hidden)
    yield f"{prefix}.self_attn.o_proj.weight", torch.zeros(shape.hidden, queries, dtype=DTYPE)
    yield f"{prefix}.post_attention_layernorm.weight", torch.ones(shape.hidden, dtype=DTYPE)
    yield f"{prefix}.mlp.gate_proj.weight", random(shape.intermediate, shape.hidden)
    yield f"{prefix}.mlp.up_proj.weight", random(shape.intermediate, shape.hidden)
    yield f"{prefix}.mlp.down_proj.weight", torch.zeros(shape.hidden, shape.intermediate, dtype=DTYPE)


def _config(shape: ModelShape, vocab_size: int, max_positions: int) -> dict[str, object]:
    # "torch_dtype" and "rope_theta" are the keys that transformers 4.5x and 5.x both read.
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": max_positions,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "torch_dtype": "bfloat16",
    }


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
