# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's facts, as read from its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from specbuild.checkpoint import Checkpoint, examine
from specbuild.errors import CheckpointError
from support import checkpoints
from support.checkpoints import Recipe


def opened(folder: Path, recipe: Recipe | None = None) -> Checkpoint:
    return Checkpoint.open(checkpoints.write(folder, recipe))


def refusal(folder: Path, *, code: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


def test_facts_of_the_config_are_read(tmp_path: Path) -> None:
    config = opened(tmp_path).config
    assert (config.architecture, config.model_type) == ("LlamaForCausalLM", "llama")
    assert (config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads) == (16, 2, 4, 2)
    assert (config.head_dim, config.vocab_size, config.context_length) == (4, 64, 256)
    assert config.dtype == "float32"
    assert not config.tie_word_embeddings
    assert config.raw["intermediate_size"] == config.intermediate_size == 32


def test_kv_bytes_per_token_of_a_published_model() -> None:
    """Llama-3.1-8B: 32 layers, 8 KV heads of 128: 131072 bytes at 16 bit."""
    from specbuild.checkpoint.model_config import ModelConfig

    sizes = {"num_layers": 32, "num_kv_heads": 8, "head_dim": 128}
    others = {name: 0 for name in ModelConfig.__dataclass_fields__ if name not in sizes}
    assert ModelConfig(**others, **sizes).kv_bytes_per_token() == 131_072  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 256),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 1024),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, 512),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 200}}, 800),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32}},
            256,
        ),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1.0]}}, 256),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, 256),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 512),
        ({"rope_scaling": {"rope_type": "linear", "factor": "many"}}, 256),
        ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "model_type": "gemma3_text"}, 256),
    ],
)
def test_context_length_counts_rope_scaling(
    tmp_path: Path, changes: dict[str, object], expected: int
) -> None:
    assert opened(tmp_path, Recipe(config=changes)).config.context_length == expected


def test_end_tokens_are_those_of_both_files(tmp_path: Path) -> None:
    recipe = Recipe(config={"eos_token_id": 2}, generation={"eos_token_id": [3, 1], "bos_token_id": 5})
    config = opened(tmp_path, recipe).config
    assert config.eos_ids == (1, 2, 3)
    assert config.bos_id == 5


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sliding_window": 128}, 128),
        ({"sliding_window": 128, "use_sliding_window": False}, None),
        ({"sliding_window": 0}, None),
        ({}, None),
    ],
)
def test_sliding_window_counts_only_when_used(
    tmp_path: Path, changes: dict[str, object], expected: int | None
) -> None:
    assert opened(tmp_path, Recipe(config=changes)).config.sliding_window == expected


@pytest.mark.parametrize(("family", "tied", "head_dim"), [("llama", False, 4), ("gemma", True, 256)])
def test_silent_config_takes_the_familys_defaults(
    tmp_path: Path, family: str, tied: bool, head_dim: int
) -> None:
    config = opened(tmp_path, Recipe(config={"model_type": family, "tie_word_embeddings": None})).config
    assert (config.tie_word_embeddings, config.head_dim) == (tied, head_dim)


def test_quantised_checkpoints_name_their_method(tmp_path: Path) -> None:
    awq = opened(tmp_path / "a", Recipe(config={"quantization_config": {"quant_method": "awq"}}))
    assert awq.config.quantization == "awq"
    folder = checkpoints.write(tmp_path / "b")
    checkpoints.write_json(folder / "hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}})
    assert Checkpoint.open(folder).config.quantization == "modelopt"


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"vocab_size": 1 << 80}, "vocab_size"),
        ({"architectures": []}, "architectures"),
        ({"num_key_value_heads": 3}, "cannot share 3 KV heads"),
        ({"hidden_size": 17}, "no multiple"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
    ],
)
def test_wrong_config_names_the_key(tmp_path: Path, changes: dict[str, object], fact: str) -> None:
    folder = checkpoints.write(tmp_path)
    checkpoints.edit_json(folder / "config.json", **changes)
    error = refusal(folder, code="file-invalid")
    assert fact in error.message
    assert "config.json" in error.message


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "encoder-decoder"),
        ({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}}, "vision_config"),
        ({"architectures": ["BertForMaskedLM"]}, "no causal language model"),
    ],
)
def test_other_kinds_of_model_are_refused(tmp_path: Path, changes: dict[str, object], fact: str) -> None:
    folder = checkpoints.write(tmp_path)
    checkpoints.edit_json(folder / "config.json", **changes, hidden_size=None)
    assert fact in refusal(folder, code="architecture-unsupported").message


@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_are_those_that_were_written(tmp_path: Path, shards: int) -> None:
    recipe = Recipe(shards=shards)
    checkpoint = opened(tmp_path, recipe)
    written = checkpoints.tensors(recipe)
    tensors = checkpoint.weights.tensors
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        n: a.shape for n, a in written.items()
    }
    assert checkpoint.weights.parameters == sum(array.size for array in written.values())
    assert checkpoint.weights.nbytes == 4 * checkpoint.weights.parameters
    assert len(checkpoint.weights.files) == shards
    norm = tensors["model.norm.weight"]
    data = (tmp_path / norm.file).read_bytes()[norm.offset : norm.offset + norm.nbytes]
    assert np.array_equal(np.frombuffer(data, np.float32), written["model.norm.weight"])


def test_dtype_is_the_configs_or_else_that_of_the_weights(tmp_path: Path) -> None:
    assert opened(tmp_path / "a", Recipe(config={"torch_dtype": "bfloat16"})).dtype == "bfloat16"
    assert opened(tmp_path / "b", Recipe(config={"torch_dtype": None, "dtype": "float16"})).dtype == "float16"
    assert opened(tmp_path / "c", Recipe(config={"torch_dtype": None})).dtype == "float32"


def test_files_are_a_complete_copy(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "original", Recipe(shards=2))
    (folder / "training_args.bin").write_bytes(b"not part of the model")
    checkpoint = Checkpoint.open(folder)
    (tmp_path / "copy").mkdir()
    for name in checkpoint.files:
        (tmp_path / "copy" / name).write_bytes((folder / name).read_bytes())
    copy = Checkpoint.open(tmp_path / "copy")
    assert copy.files == checkpoint.files
    assert copy.content_digest() == checkpoint.content_digest()
    assert "training_args.bin" not in checkpoint.files


def test_trusted_code_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path, Recipe(config={"auto_map": {"AutoModel": "own.Own"}}))
    (folder / "own.py").write_text("x = 1")
    before = Checkpoint.open(folder, trust_remote_code=True)
    assert "own.py" in before.files
    digest = before.content_digest()
    (folder / "own.py").write_text("x = 2")
    assert Checkpoint.open(folder, trust_remote_code=True).content_digest() != digest


def test_tokenizer_has_every_id_and_marks_added_tokens(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path).tokenizer
    assert tokenizer.size == len(tokenizer.tokens) == 64
    assert tokenizer.tokens[0] == "<s>"
    assert tokenizer.tokens[63] == "w63"
    assert tokenizer.added == {0: True, 1: True, 2: True, 3: True}


def test_merges_written_in_either_style_are_equal(tmp_path: Path) -> None:
    rules = []
    for style, merges in {"old": ["w 4"], "new": [["w", "4"]]}.items():
        folder = checkpoints.write(tmp_path / style)
        document = json.loads((folder / "tokenizer.json").read_text())
        document["model"]["vocab"] |= {"w": 64, "4": 65}
        document["model"]["merges"] = merges
        checkpoints.write_json(folder / "tokenizer.json", document)
        rules.append(Checkpoint.open(folder).tokenizer.rules)
    assert rules[0] == rules[1]


def test_chat_template_of_its_own_file_wins(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path, Recipe(chat_template="old"))
    assert Checkpoint.open(folder).chat_template == "old"
    (folder / "chat_template.jinja").write_text("new", encoding="utf-8")
    assert Checkpoint.open(folder).chat_template == "new"
    assert "chat_template.jinja" in Checkpoint.open(folder).files


def test_default_chat_template_of_several_is_taken(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path)
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    checkpoints.edit_json(folder / "tokenizer_config.json", chat_template=several)
    assert Checkpoint.open(folder).chat_template == "d"


def test_sentencepiece_only_is_refused_with_the_conversion(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    error = refusal(folder, code="tokenizer-missing")
    assert "tokenizer.model" in error.message
    assert "save_pretrained" in error.remedy


def test_examination_lists_everything_that_is_wrong(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path, Recipe(shards=3))
    (folder / "model-00001-of-00003.safetensors").unlink()
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"short")
    (folder / "tokenizer.json").unlink()
    checkpoints.edit_json(folder / "config.json", hidden_size=None, auto_map={"AutoModel": "m.M"})
    examination = examine(folder)
    assert {error.code for error in examination.errors} == {
        "shard-missing",
        "shard-corrupt",
        "tokenizer-missing",
        "file-invalid",
        "custom-code",
    }


def test_what_is_readable_stays_readable_beside_damage(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path)
    (folder / "model.safetensors").write_bytes(b"")
    examination = examine(folder)
    assert examination.config is not None
    assert examination.tokenizer is not None
    assert examination.weights is None
