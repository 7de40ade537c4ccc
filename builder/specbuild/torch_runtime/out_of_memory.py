# SPDX-License-Identifier: Apache-2.0
"""Explains that the GPU's memory ran out while an engine was loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from specbuild.errors import EngineError
from specbuild.planning import memory, shortage
from specbuild.planning.memory import ModelMemory
from specbuild.torch_runtime.request import Settings


@contextmanager
def explained(target: Path, draft: Path | None, settings: Settings, where: torch.device) -> Iterator[None]:
    """Raises EngineError, which says what the pair needs and what to lower, where PyTorch finds no memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        try:
            models = _model(target), None if draft is None else _model(draft)
        except KeyError:  # no Llama's sizes: the plan would be a guess
            message = "the pair does not fit into the GPU's memory"
            remedy = "Lower limits.max_batch_size or limits.max_seq_len, or use a larger GPU."
        else:
            message, remedy = shortage.explain(
                _available(where),
                *models,
                slots=settings.max_batch_size,
                max_seq_len=settings.max_seq_len,
                draft_length=settings.draft_length,
                prefill_chunk=settings.prefill_chunk,
            )
        raise EngineError(message, remedy=remedy) from error


def _model(folder: Path) -> ModelMemory:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return memory.model_memory(config.get("text_config", config), weight_bytes=files)


def _available(where: torch.device) -> int:
    """Bytes that this process has or could have."""
    free, _ = torch.cuda.mem_get_info(where)
    return free + torch.cuda.memory_reserved(where)
