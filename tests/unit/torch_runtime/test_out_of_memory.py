# SPDX-License-Identifier: Apache-2.0
"""An engine that finds no memory says what its models need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from specbuild.errors import EngineError
from specbuild.torch_runtime import Engine, Settings, engine
from support import tiny_models

SETTINGS = Settings(
    draft_length=3, adaptive=False, max_batch_size=1000, max_input_len=8, max_seq_len=16, device="cpu"
)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two models for a GPU whose memory runs out while they are loaded."""
    tiny_models.save(tmp_path / "target", "llama")
    tiny_models.save(tmp_path / "draft", "llama")

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(engine, "_load_pair", exhausted)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 20, 24 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 << 20)
    return tmp_path / "target", tmp_path / "draft"


def test_the_settings_to_lower_are_named(models: tuple[Path, Path]) -> None:
    with pytest.raises(EngineError, match=r"the pair needs .* GiB \(weights ") as error:
        Engine.load(*models, SETTINGS)
    assert "Lower limits.max_batch_size to " in error.value.remedy


def test_without_the_sizes_of_a_llama_nothing_is_guessed(models: tuple[Path, Path]) -> None:
    (models[0] / "config.json").write_text(json.dumps({"n_embd": 8}))
    with pytest.raises(EngineError, match="does not fit into the GPU") as error:
        Engine.load(*models, SETTINGS)
    assert "limits.max_batch_size or" in error.value.remedy
