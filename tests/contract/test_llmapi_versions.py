# SPDX-License-Identifier: Apache-2.0
"""What is written for the LLM API holds only keys that each release knows: its models forbid any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specbuild import config
from specbuild.config import Config
from specbuild.engines import llmapi_versions
from specbuild.engines.llmapi_arguments import model_yaml
from specbuild.engines.llmapi_versions import dialect, dialects
from specbuild.errors import ConfigError

ROOT = Path(__file__).parents[2]

# NVIDIA/TensorRT-LLM, tests/unittest/api_stability/references_committed/llm.yaml at 029c15cb, and
# references/llm.yaml at 000a01de: the arguments of LLM that are promised to stay.
LLM_ARGUMENTS = {
    *("model", "backend", "dtype", "trust_remote_code", "revision"),
    *("tensor_parallel_size", "pipeline_parallel_size"),
    *("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width"),
    *("kv_cache_config", "speculative_config", "disable_overlap_scheduler", "enable_chunked_prefill"),
}
KV_CACHE = {"enable_block_reuse", "free_gpu_memory_fraction", "dtype", "max_tokens", "host_cache_size"}

# Fields of DraftTargetDecodingConfig and its base, tensorrt_llm/llmapi/llm_args.py of each era.
FIELDS_1_0 = {"max_draft_len", "speculative_model_dir"}
FIELDS_1_2_1 = {
    *("max_draft_len", "max_total_draft_tokens", "speculative_model", "speculative_model_dir"),
    *("max_concurrency", "draft_len_schedule", "load_format"),
    *("acceptance_window", "acceptance_length_threshold"),
}
FIELDS_NEWEST = {
    *("max_draft_len", "max_total_draft_tokens", "speculative_model", "speculative_model_dir"),
    *("max_concurrency", "draft_len_schedule", "load_format"),
    *("acceptance_rate_window_size", "acceptance_rate_threshold", "use_rejection_sampling"),
    *("allow_advanced_sampling", "advanced_sampling_mode", "enable_penalty"),
}
ERAS = {
    "1.0.0": ("DraftTarget", FIELDS_1_0),
    "1.0.3": ("DraftTarget", FIELDS_1_0),
    "1.1.0": ("DraftTarget", FIELDS_1_0),
    "1.2.0": ("DraftTarget", FIELDS_1_2_1),
    "1.2.1": ("DraftTarget", FIELDS_1_2_1),
    "1.3.0rc5": ("Draft_Target", FIELDS_1_2_1 & FIELDS_NEWEST),
    "1.3.0rc15": ("Draft_Target", FIELDS_1_2_1 & FIELDS_NEWEST),
    "1.3.0rc22": ("Draft_Target", FIELDS_NEWEST),
    "1.3.0": ("Draft_Target", FIELDS_NEWEST),
    "1.4.0rc1": ("Draft_Target", FIELDS_NEWEST),
}


def settings(version: str, **speculation: Any) -> Config:
    return config.validate(
        {
            "name": "pair",
            "runtime": "llmapi",
            "target": {"checkpoint": "org/target", "dtype": "bfloat16", "trust_remote_code": True},
            "draft": {"checkpoint": "org/draft"},
            "speculation": {"draft_length": 4} | speculation,
            "tensorrt_llm": {"version": version},
            "output": "build/pair",
        },
        source="test",
    )


def written(version: str, **speculation: Any) -> dict[str, Any]:
    chosen = settings(version, **speculation)
    return model_yaml(chosen, dialect(version), target="org/target", draft="org/draft", cost_ratio=0.1)


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("acceptance", ["exact", "logits"])
def test_every_release_gets_only_keys_that_it_knows(version: str, acceptance: str) -> None:
    kind, fields = ERAS[version]
    document = written(version, acceptance=acceptance)
    section = document["speculative_config"]
    assert section.pop("decoding_type") == kind
    assert set(section) <= fields
    assert set(document) <= LLM_ARGUMENTS
    assert set(document["kv_cache_config"]) <= KV_CACHE


@pytest.mark.parametrize("version", ERAS)
def test_every_release_gets_length_and_draft(version: str) -> None:
    section = written(version)["speculative_config"]
    assert section["max_draft_len"] == 4
    names = {"speculative_model", "speculative_model_dir"} & set(section)
    assert [section[name] for name in names] == ["org/draft"]


# One line per row of the table: what tells it from its neighbours.
@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (
            "1.1.0",
            {"decoding_type": "DraftTarget", "max_draft_len": 4, "speculative_model_dir": "org/draft"},
        ),
        (
            "1.2.1",
            {
                "decoding_type": "DraftTarget",
                "max_draft_len": 4,
                "speculative_model": "org/draft",
                "acceptance_window": 100,
                "acceptance_length_threshold": 0.4,
            },
        ),
        (
            "1.3.0rc10",
            {"decoding_type": "Draft_Target", "max_draft_len": 4, "speculative_model": "org/draft"},
        ),
        (
            "1.4.0",
            {
                "decoding_type": "Draft_Target",
                "max_draft_len": 4,
                "speculative_model": "org/draft",
                "acceptance_rate_window_size": 2000,
                "acceptance_rate_threshold": 0.1,
            },
        ),
    ],
)
def test_each_row_of_the_table_is_spelled_in_full(version: str, expected: dict[str, Any]) -> None:
    assert written(version)["speculative_config"] == expected


@pytest.mark.parametrize(
    ("version", "disabled", "option"),
    [
        ("1.0.0", True, "--extra_llm_api_options"),
        ("1.2.1", True, "--extra_llm_api_options"),
        ("1.3.0rc21", True, "--extra_llm_api_options"),
        ("1.3.0rc22", False, "--config"),
        ("1.4.0", False, "--config"),
    ],
)
def test_the_overlap_scheduler_is_off_where_two_models_run_in_turn(
    version: str, disabled: bool, option: str
) -> None:
    assert written(version)["disable_overlap_scheduler"] is disabled
    assert dialect(version).serve_option == option


def test_rejection_sampling_is_asked_for_where_it_exists() -> None:
    assert written("1.4.0", acceptance="logits")["speculative_config"]["use_rejection_sampling"] is True
    assert "use_rejection_sampling" not in written("1.4.0")["speculative_config"]


def test_the_rows_follow_each_other_without_gap_or_overlap() -> None:
    rows = dialects()
    assert [row.end for row in rows[:-1]] == [row.first for row in rows[1:]]
    assert rows[-1].end is None
    assert all(row.evidence for row in rows)


@pytest.mark.parametrize("version", ["0.20.0", "0.17.0"])
def test_releases_before_1_0_are_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=version) as caught:
        dialect(version)
    assert "1.0.0" in caught.value.remedy


def test_the_page_shows_the_table() -> None:
    assert llmapi_versions.markdown() in (ROOT / "docs" / "llmapi.md").read_text(encoding="utf-8")
