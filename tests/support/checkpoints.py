# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints in Hugging Face format, written without PyTorch, with one defect on demand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Array = np.ndarray[Any, Any]
SPECIALS = ("<s>", "</s>", "<|user|>", "<|end|>")


@dataclass(frozen=True)
class Recipe:
    """What ``write`` writes: a Llama whose every fact can be changed."""

    vocab: int = 64
    """Tokens of the tokenizer, specials included."""
    rows: int | None = None
    """Rows of the embedding; None is as many as tokens."""
    hidden: int = 16
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    context: int = 256
    tied: bool = False
    shards: int = 1
    specials: Sequence[str] = SPECIALS
    swap: tuple[int, int] | None = None
    """Two ids whose texts change places."""
    chat_template: str | None = "{{ messages[0].content }}"
    config: Mapping[str, Any] = field(default_factory=dict)
    """Merged into config.json; None removes a key."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    tensors: Callable[[dict[str, Array]], None] = lambda tensors: None
    """Changes the tensors before they are written."""


def write(folder: Path, recipe: Recipe | None = None) -> Path:
    """The checkpoint of ``recipe`` in ``folder``."""
    recipe = recipe or Recipe()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config(recipe))
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": 0, "eos_token_id": [1, 3]} | dict(recipe.generation),
    )
    tokenizer(recipe).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"chat_template": recipe.chat_template, "eos_token": "</s>"})
    parts = tensors(recipe)
    recipe.tensors(parts)
    write_weights(folder, parts, shards=recipe.shards)
    return folder


def pair(root: Path, target: Recipe | None = None, draft: Recipe | None = None) -> tuple[Path, Path]:
    """Folders of a target and a smaller draft that fit each other unless a recipe says otherwise."""
    return (
        write(root / "target", target or Recipe(hidden=32, layers=3)),
        write(root / "draft", draft or Recipe()),
    )


def config(recipe: Recipe) -> dict[str, Any]:
    document = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": recipe.hidden,
        "intermediate_size": 2 * recipe.hidden,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "max_position_embeddings": recipe.context,
        "vocab_size": recipe.rows or recipe.vocab,
        "tie_word_embeddings": recipe.tied,
        "torch_dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | dict(recipe.config)
    return {key: value for key, value in document.items() if value is not None}


def tokenizer(recipe: Recipe) -> Tokenizer:
    """Byte-level BPE without merges: ids 0.. are the specials, then words ``w4``, ``w5``, ..."""
    texts = [*recipe.specials, *(f"w{index}" for index in range(len(recipe.specials), recipe.vocab))]
    if recipe.swap:
        one, other = recipe.swap
        texts[one], texts[other] = texts[other], texts[one]
    result = Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(texts)}, merges=[]))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens([AddedToken(text, special=True) for text in recipe.specials])
    return result


def tensors(recipe: Recipe) -> dict[str, Array]:
    """Random weights under Llama's names."""
    random = np.random.default_rng(0)
    hidden, head = recipe.hidden, recipe.hidden // recipe.heads
    shapes = {
        "model.embed_tokens.weight": (recipe.rows or recipe.vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    if not recipe.tied:
        shapes["lm_head.weight"] = (recipe.rows or recipe.vocab, hidden)
    for layer in range(recipe.layers):
        for name, shape in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (recipe.heads * head, hidden),
            "self_attn.k_proj": (recipe.kv_heads * head, hidden),
            "self_attn.v_proj": (recipe.kv_heads * head, hidden),
            "self_attn.o_proj": (hidden, recipe.heads * head),
            "mlp.gate_proj": (2 * hidden, hidden),
            "mlp.up_proj": (2 * hidden, hidden),
            "mlp.down_proj": (hidden, 2 * hidden),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_weights(folder: Path, parts: Mapping[str, Array], *, shards: int) -> None:
    """``model.safetensors``, or ``shards`` numbered files with their index."""
    if shards == 1:
        save_file(dict(parts), folder / "model.safetensors")
        return
    names = sorted(parts)
    placed = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(placed.values()):
        save_file({name: parts[name] for name in names if placed[name] == file}, folder / file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": placed})


def to_bfloat16(path: Path) -> None:
    """Rewrite a file of float32 tensors as bfloat16, which numpy lacks: the upper half of each number."""
    halves = {name: array.view(np.uint16)[..., 1::2].copy() for name, array in load_file(path).items()}
    data = save(halves)
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON object in a file; None removes one."""
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in document.items() if value is not None})


def as_hub_cache(root: Path, checkpoint: Path, *, name: str = "models--org--tiny") -> Path:
    """``checkpoint`` rearranged as the Hugging Face cache keeps it: a snapshot of links into blobs."""
    snapshot, blobs = root / name / "snapshots" / ("0" * 40), root / name / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for index, file in enumerate(sorted(checkpoint.iterdir())):
        file.rename(blobs / f"{index:064}")
        (snapshot / file.name).symlink_to(f"../../blobs/{index:064}")
    return snapshot
