# SPDX-License-Identifier: Apache-2.0
"""Loading takes whole safetensors checkpoints that fit the limits, and refuses the rest with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specbuild.errors import EngineError
from specbuild.torch_runtime import device
from specbuild.torch_runtime.decoder import Decoder
from specbuild.torch_runtime.packed_linear import PackedLinear
from support import tiny_models

CPU = torch.device("cpu")


def load(folder: Path, max_seq_len: int = 64) -> Decoder:
    return Decoder.load(folder, slots=1, max_seq_len=max_seq_len, where=CPU)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be loaded"):
        load(tmp_path / "nowhere")


def test_a_missing_weight_is_not_replaced_by_random_numbers(tmp_path: Path) -> None:
    tiny_models.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"lacks 1 weights, the first of them model\.layers\.1\.mlp"):
        load(tmp_path)


def test_a_truncated_weight_file(tmp_path: Path) -> None:
    path = tiny_models.save(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(EngineError, match="cannot be loaded"):
        load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    tiny_models.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(EngineError, match="cannot be loaded"):
        load(tmp_path)


def test_code_from_the_checkpoint_is_not_run(tmp_path: Path) -> None:
    tiny_models.save(tmp_path)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change_config(
        tmp_path, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.M"}
    )
    with pytest.raises(EngineError, match="cannot be loaded"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_window_beyond_the_models(tmp_path: Path) -> None:
    tiny_models.save(tmp_path)
    with pytest.raises(EngineError, match=r"max_seq_len 129 exceeds the context window .* \(128\)"):
        load(tmp_path, 129)


def test_rotary_frequencies_that_change_on_the_way(tmp_path: Path) -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    tiny_models.save(tmp_path, rope_parameters={**scaling, "original_max_position_embeddings": 64})
    load(tmp_path, 64)
    with pytest.raises(EngineError, match="changes its rotary frequencies beyond 64 tokens"):
        load(tmp_path, 65)


def test_an_architecture_without_rotary_attention(tmp_path: Path) -> None:
    import transformers

    config = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="BloomForCausalLM does not let"):
        load(tmp_path)


@pytest.mark.skipif(not device.has_bfloat16(), reason="the processor computes bfloat16 by other means")
@pytest.mark.parametrize("bias", [False, True])
def test_packed_linear_layers_compute_what_plain_ones_do(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(96, 160, bias=bias, dtype=torch.bfloat16)
    rows = torch.randn(2, 5, 96, generator=generator).bfloat16()
    with torch.inference_mode():
        assert torch.equal(PackedLinear(linear)(rows), linear(rows))


def test_the_number_format_is_the_checkpoints_unless_the_processor_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(device, "has_bfloat16", lambda: True)
    assert device.compute_dtype(torch.float32, CPU) == torch.float32
    assert device.compute_dtype(torch.bfloat16, CPU) == torch.bfloat16
    assert device.compute_dtype(torch.float16, CPU) == torch.bfloat16
    assert device.compute_dtype(torch.float16, gpu) == torch.float16
    monkeypatch.setattr(device, "has_bfloat16", lambda: False)
    assert device.compute_dtype(torch.bfloat16, CPU) == torch.float32
    assert device.compute_dtype(torch.bfloat16, gpu) == torch.bfloat16


def test_bfloat16_is_read_from_the_processors_flags(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("flags\t\t: fpu avx512f avx512_bf16 amx_tile\n")
    assert device.has_bfloat16(path)
    path.write_text("flags\t\t: fpu avx2\n")
    assert not device.has_bfloat16(path)
    assert not device.has_bfloat16(tmp_path / "missing")


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(EngineError, match="cuda:63 is not available"):
        device.resolve("cuda:63")
    assert device.resolve("cpu") == CPU
