# SPDX-License-Identifier: Apache-2.0
"""An engine's config.json against the plan: every difference is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from specbuild.engines import readback
from specbuild.engines.plan import Expected

EXPECTED = Expected(
    version="1.2.1",
    speculative_decoding_mode=2,
    max_draft_len=5,
    max_batch_size=4,
    max_input_len=200,
    max_seq_len=205,
    max_num_tokens=800,
    vocab_size=32000,
    tp_size=2,
    pp_size=1,
    dtype="bfloat16",
    quant_algo="FP8",
    kv_cache_quant_algo="FP8",
    tokens_per_block=32,
)
ENGINE: dict[str, Any] = {
    "version": "1.2.1",
    "pretrained_config": {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "vocab_size": 32000,
        "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "group_size": 128},
    },
    "build_config": {
        "max_batch_size": 4,
        "max_input_len": 200,
        "max_seq_len": 205,
        "max_num_tokens": 800,
        "max_beam_width": 1,
        "kv_cache_type": "PAGED",
        "gather_context_logits": False,
        "max_draft_len": 5,
        "speculative_decoding_mode": 2,
        "plugin_config": {"use_paged_context_fmha": True, "tokens_per_block": 32},
    },
}


def differences(*path: str, value: Any) -> list[str]:
    """What is found when the key at ``path`` has ``value``."""
    document = copy.deepcopy(ENGINE)
    section = document
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return list(readback.engine_differences(document, EXPECTED))


def test_the_planned_engine_has_no_differences() -> None:
    assert list(readback.engine_differences(ENGINE, EXPECTED)) == []


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("version",), "1.1.0", "built by TensorRT-LLM 1.1.0"),
        (("version",), None, "built by TensorRT-LLM None"),
        (("build_config", "speculative_decoding_mode"), 1, "speculative_decoding_mode is 1, not 2"),
        (("build_config", "max_draft_len"), 4, "max_draft_len is 4"),
        (("build_config", "max_seq_len"), 200, "max_seq_len is 200, not 205"),
        (("build_config", "max_num_tokens"), 799, "less than 800"),
        (("build_config", "kv_cache_type"), "CONTINUOUS", "kv_cache_type"),
        (("build_config", "gather_context_logits"), True, "gather_context_logits"),
        (
            ("build_config", "plugin_config", "use_paged_context_fmha"),
            False,
            "use_paged_context_fmha is False",
        ),
        (("build_config", "plugin_config"), None, "tokens_per_block is None"),
        (("pretrained_config", "vocab_size"), 32064, "vocab_size is 32064, not 32000"),
        (("pretrained_config", "mapping", "tp_size"), 1, "tp_size is 1, not 2"),
        (("pretrained_config", "quantization", "kv_cache_quant_algo"), None, "kv_cache_quant_algo is None"),
        (("build_config",), [], "max_batch_size is None"),
    ],
)
def test_each_difference_is_named(path: tuple[str, ...], value: Any, reason: str) -> None:
    assert any(reason in difference for difference in differences(*path, value=value))


@pytest.mark.parametrize("spelling", ["PAGED", "paged"])  # releases differ; TensorRT-LLM reads both
def test_a_paged_cache_is_paged_in_any_case(spelling: str) -> None:
    assert differences("build_config", "kv_cache_type", value=spelling) == []


def test_more_tokens_per_pass_than_planned_are_fine() -> None:
    assert differences("build_config", "max_num_tokens", value=8192) == []
