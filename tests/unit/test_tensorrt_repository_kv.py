# SPDX-License-Identifier: Apache-2.0
"""The KV cache of two engines is one budget, whichever loads first."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from specbuild.errors import RepositoryError
from specbuild.repository.engine_facts import EngineFacts
from specbuild.repository.kv_budget import KvShare, reserved_bytes, split
from specbuild.repository.placement import place
from support import trt_engines

ORDERS = list(permutations(("target", "draft")))
H100 = 80 << 30
GB = 10**9


def engines(tmp_path: Path, **sections: Any) -> tuple[dict[Any, EngineFacts], Any]:
    settings = trt_engines.settings_for(tmp_path, **sections)
    trt_engines.write(settings, weights=1000)
    facts = {role: EngineFacts.read(settings.engines_dir / role) for role in ("target", "draft")}
    return facts, place(settings)


@pytest.mark.parametrize(
    ("split_over", "expected"), [({}, 131072), ({"tp_size": 4}, 32768), ({"tp_size": 16}, 16384)]
)
def test_bytes_per_token_of_one_gpu(tmp_path: Path, split_over: dict[str, int], expected: int) -> None:
    """Llama 3.1 8B: 131,072 bytes; Llama 3.2 1B: 32,768, with heads of 64."""
    facts, _ = engines(tmp_path, target=split_over)
    assert facts["target"].kv_bytes_per_token == expected
    assert facts["draft"].kv_bytes_per_token == 32768


def test_pipeline_stages_hold_their_layers_only(tmp_path: Path) -> None:
    facts, _ = engines(tmp_path, target={"pp_size": 3})
    assert facts["target"].kv_bytes_per_token == 131072 * 11 // 32


def test_an_fp8_cache_is_half_as_large(tmp_path: Path) -> None:
    settings = trt_engines.settings_for(tmp_path)
    trt_engines.write(settings)
    folder = settings.engines_dir / "target"
    trt_engines.change(folder, "pretrained_config", quantization={"kv_cache_quant_algo": "FP8"})
    assert EngineFacts.read(folder).kv_bytes_per_token == 65536


def test_both_caches_hold_the_same_tokens_and_fill_the_budget(tmp_path: Path) -> None:
    facts, where = engines(tmp_path)
    shares = split(facts, where, fraction=0.9, gpu_memory_bytes=H100)
    tokens = {share.tokens for share in shares.values()}
    assert len(tokens) == 1
    used = tokens.pop() * sum(engine.kv_bytes_per_token for engine in facts.values())
    budget = 0.9 * (H100 - reserved_bytes(facts.values()))
    assert 0.999 * budget < used <= budget


@pytest.mark.parametrize("order", ORDERS)
def test_each_gets_its_share_in_either_order_of_loading(tmp_path: Path, order: tuple[Any, ...]) -> None:
    """The backend: tokens = min(what is configured, fraction of what is free once the weights are in)."""
    facts, where = engines(tmp_path)
    shares = split(facts, where, fraction=0.9, gpu_memory_bytes=H100)
    free = float(H100)
    for role in order:
        free -= reserved_bytes([facts[role]])
        share = shares[role]
        assert share.tokens is not None
        granted = min(share.tokens, share.fraction * free / facts[role].kv_bytes_per_token)
        assert granted == share.tokens
        free -= granted * facts[role].kv_bytes_per_token
    assert free > 0


@pytest.mark.parametrize("order", ORDERS)
def test_without_the_gpus_memory_neither_order_runs_out(tmp_path: Path, order: tuple[Any, ...]) -> None:
    facts, where = engines(tmp_path)
    shares = split(facts, where, fraction=0.9, gpu_memory_bytes=None)
    assert shares == {"target": KvShare(0.72, None), "draft": KvShare(0.18, None)}
    free = float(H100)
    taken = 0.0
    for role in order:
        free -= reserved_bytes([facts[role]])
        cache = shares[role].fraction * free
        free -= cache
        taken += cache
    assert free > 0
    assert taken < 0.9 * H100


def test_engines_on_gpus_of_their_own_do_not_divide_anything(tmp_path: Path) -> None:
    facts, where = engines(tmp_path, draft={"gpus": [1]})
    shares = split(facts, where, fraction=0.5, gpu_memory_bytes=H100)
    assert shares["draft"].tokens is not None
    assert shares["target"].tokens is not None
    assert shares["draft"].tokens > 3 * shares["target"].tokens
    unknown = split(facts, where, fraction=0.5, gpu_memory_bytes=None)
    assert {share.fraction for share in unknown.values()} == {0.5}


def test_the_fullest_gpu_decides(tmp_path: Path) -> None:
    """A draft on one of the target's two GPUs leaves the other one partly unused."""
    facts, where = engines(tmp_path, target={"tp_size": 2})
    alone = engines(tmp_path, target={"tp_size": 2}, draft={"gpus": [2]})[1]
    shared = split(facts, where, fraction=0.9, gpu_memory_bytes=H100)["target"].tokens
    apart = split(facts, alone, fraction=0.9, gpu_memory_bytes=H100)["target"].tokens
    assert shared is not None
    assert apart is not None
    assert shared < apart


def test_tokens_are_whole_blocks(tmp_path: Path) -> None:
    facts, where = engines(tmp_path)
    for memory in (60 * GB, 61 * GB, 62 * GB):
        shares = split(facts, where, fraction=0.9, gpu_memory_bytes=memory)
        assert all(share.tokens is not None and share.tokens % 32 == 0 for share in shares.values())


def test_a_cache_that_cannot_hold_one_sequence_is_refused(tmp_path: Path) -> None:
    facts, where = engines(tmp_path)
    with pytest.raises(RepositoryError, match="less than one sequence of 4101") as error:
        split(facts, where, fraction=0.9, gpu_memory_bytes=4 * GB)
    assert "max_seq_len" in error.value.remedy


def test_a_folder_without_an_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"config\.json cannot be read"):
        EngineFacts.read(tmp_path)
    (tmp_path / "config.json").write_text('{"pretrained_config": {}}')
    with pytest.raises(RepositoryError, match="not that of a TensorRT engine"):
        EngineFacts.read(tmp_path)
