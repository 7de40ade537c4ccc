# SPDX-License-Identifier: Apache-2.0
"""A synthetic pair plays engines that are too large for this machine."""

from __future__ import annotations

from pathlib import Path

import torch

from specbuild.rehearsal import weights
from specbuild.torch_runtime import Engine, Request, Settings

VOCABULARY = 4000
SPECIAL = frozenset({0, 1, 2})


def test_a_planted_pair_agrees_as_often_as_it_is_made_to(tmp_path: Path) -> None:
    weights.plant(tmp_path / "pair", VOCABULARY, 256, SPECIAL)
    settings = Settings(4, adaptive=False, max_batch_size=1, max_input_len=64, max_seq_len=256, device="cpu")
    torch.set_num_threads(1)
    with Engine.load(tmp_path / "pair" / "target", tmp_path / "pair" / "draft", settings) as engine:
        chunks = list(engine.generate(Request(prompt=[77], max_tokens=200)))
    tokens = [token for chunk in chunks for token in chunk.token_ids]
    counters = chunks[-1].counters
    assert len(set(tokens)) == 200  # one long cycle
    assert not SPECIAL & set(tokens)
    # A wrong successor is met in a fifth of the positions, whatever came before.
    tried = counters.accepted + sum(
        a < d for a, d in zip(counters.accepted_by_position, counters.drafted_by_position, strict=True)
    )
    assert 0.6 < counters.accepted / max(1, tried, counters.accepted) <= 1.0
    assert 0.3 < counters.accepted / counters.drafted < 0.9


def test_it_is_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    weights.plant(folder, 100, 64, SPECIAL)
    before = (folder / "target" / "model.safetensors").stat().st_mtime_ns
    weights.plant(folder, 100, 64, SPECIAL)
    assert (folder / "target" / "model.safetensors").stat().st_mtime_ns == before
