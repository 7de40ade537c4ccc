# SPDX-License-Identifier: Apache-2.0
"""Models and engines of the tests that need a GPU.

SPECBUILD_TEST_DEVICE=cpu runs them on a CPU instead (with -m gpu), to test the tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from specbuild.synthetic import PlantedRecipe, plant
from specbuild.torch_runtime import Engine
from support import running, tiny_models
from support.near_ties import Referee

DEVICE = os.environ.get("SPECBUILD_TEST_DEVICE", "cuda")
POSITIONS = 2048
VOCAB_SIZE = 128

MakeEngine = Callable[..., AbstractContextManager[Engine]]


@dataclass(frozen=True)
class Models:
    """A pair whose next token depends on the whole context, in bfloat16, and who judges it."""

    target: Path
    draft: Path
    referee: Referee
    vocab_size: int


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("random")
    shape = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.05,
    }
    target = tiny_models.save(folder / "target", "llama", dtype=torch.bfloat16, **shape)
    draft = tiny_models.save_related(folder / "draft", like=target, noise=0.05)
    return Models(target, draft, Referee(target), VOCAB_SIZE)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "pair", PlantedRecipe("tiny")).folder


@pytest.fixture(scope="session")
def engine_on_device() -> MakeEngine:
    """``support.running.engine`` with the device and room for many requests."""
    return partial(
        running.engine, device=DEVICE, max_batch_size=64, max_input_len=1024, max_seq_len=POSITIONS
    )


@pytest.fixture(scope="module")
def engine(models: Models, engine_on_device: MakeEngine) -> Iterator[Engine]:
    with engine_on_device(models.target, models.draft) as loaded:
        yield loaded
