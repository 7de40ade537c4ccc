# SPDX-License-Identifier: Apache-2.0
"""Every way in which models of NVIDIA's backend go wrong has a code, whoever wrote the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from specbuild import repository
from specbuild.config import Config
from specbuild.repository import modelconfig, verify
from specbuild.repository.engine_rules import check_engines
from specbuild.repository.finding import CODES, ENGINE_CODES
from specbuild.repository.modelconfig import ModelConfig
from support import trt_engines

Models = dict[str, ModelConfig]


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    settings = trt_engines.settings_for(tmp_path / "build")
    trt_engines.write(settings)
    return settings


@pytest.fixture
def models(settings: Config) -> Models:
    """The models of a repository as specbuild writes it; a test then breaks one thing."""
    repository.write(settings)
    root = settings.repository_dir
    return {path.name: modelconfig.read(path) for path in root.iterdir() if path.is_dir()}


def put(models: Models, model: str, **values: str) -> None:
    for key, value in values.items():
        models[model].parameters[key].string_value = value


def drop(models: Models, model: str, key: str) -> None:
    del models[model].parameters[key]


def rename(models: Models, model: str, old: str, new: str) -> None:
    for tensor in models[model].input:
        if tensor.name == old:
            tensor.name = new


def retype(models: Models, model: str, name: str, data_type: int) -> None:
    for tensor in models[model].input:
        if tensor.name == name:
            tensor.data_type = data_type


def rebuild(settings: Config, role: str, **facts: object) -> None:
    trt_engines.change(settings.engines_dir / role, "build_config", **facts)


def overcommit(models: Models) -> None:
    for name in ("tensorrt_llm", "tensorrt_llm_draft"):
        drop(models, name, "max_tokens_in_paged_kv_cache")
        put(models, name, kv_cache_free_gpu_mem_fraction="0.9")


Defect = Callable[[Models, Config], object]
DEFECTS: dict[str, Defect] = {
    "engine-unreadable": lambda m, s: (s.engines_dir / "target" / "config.json").write_text("{}"),
    "engine-tensor-unknown": lambda m, s: rename(m, "tensorrt_llm", "seed", "random_seed"),
    "engine-tensor-differs": lambda m, s: retype(m, "tensorrt_llm", "input_ids", 9),
    "engine-tensor-missing": lambda m, s: rename(m, "tensorrt_llm", "input_lengths", "lengths"),
    "engine-parameter-unknown": lambda m, s: put(m, "tensorrt_llm", kv_cache_reuse="true"),
    "engine-parameter-invalid": lambda m, s: put(m, "tensorrt_llm", enable_kv_cache_reuse="yes"),
    "engine-parameter-missing": lambda m, s: drop(m, "tensorrt_llm", "guided_decoding_backend"),
    "engine-limit-exceeded": lambda m, s: put(m, "speculative", max_draft_len="6"),
    "engine-limits-differ": lambda m, s: rebuild(s, "draft", max_seq_len=1024),
    "engine-gpus-differ": lambda m, s: put(m, "tensorrt_llm", gpu_device_ids="0,1"),
    "engine-kv-reuse-off": lambda m, s: drop(m, "tensorrt_llm_draft", "enable_kv_cache_reuse"),
    "engine-no-paged-context": lambda m, s: rebuild(s, "draft", plugin_config={}),
    "engine-input-excluded": lambda m, s: put(m, "tensorrt_llm", exclude_input_in_output="True"),
    "engine-verifies-nothing": lambda m, s: rebuild(s, "target", speculative_decoding_mode=1),
    "engine-draft-verifies": lambda m, s: rebuild(s, "draft", speculative_decoding_mode=2, max_draft_len=5),
    "engine-input-short": lambda m, s: rebuild(s, "target", max_input_len=3200),
    "engine-memory-overcommitted": lambda m, s: overcommit(m),
}


def test_a_generated_repository_has_no_finding(models: Models) -> None:
    assert list(check_engines(models)) == []


@pytest.mark.parametrize("code", ENGINE_CODES)
def test_each_defect_is_found(models: Models, settings: Config, code: str) -> None:
    DEFECTS[code](models, settings)
    found = {finding.code: finding for finding in check_engines(models)}
    assert code in found
    assert found[code].subject in models
    assert found[code].reason
    assert found[code].remedy


def test_a_renamed_tensor_comes_with_its_new_name(models: Models) -> None:
    rename(models, "tensorrt_llm", "min_tokens", "min_length")
    [finding] = check_engines(models)
    assert finding.remedy.startswith("Rename it to min_tokens")


@pytest.mark.parametrize(("section", "value"), [("max_batch_size", 17), ("max_batch_size", 4096)])
def test_more_rows_than_the_engine_takes(models: Models, section: str, value: int) -> None:
    setattr(models["tensorrt_llm"], section, value)
    [finding] = check_engines(models)
    assert (finding.code, finding.subject) == ("engine-limit-exceeded", "tensorrt_llm")


def test_fractions_of_gpus_that_are_not_shared_may_both_be_large(models: Models) -> None:
    overcommit(models)
    put(models, "tensorrt_llm_draft", gpu_device_ids="1")
    assert list(check_engines(models)) == []


def test_models_of_other_backends_are_left_alone(models: Models) -> None:
    for name in ("tensorrt_llm", "tensorrt_llm_draft"):
        models[name].backend = "python"
        models[name].parameters["kv_cache_free_gpu_mem_fraction"].string_value = "much"
    assert list(check_engines(models)) == []


OLD_BLS = """
name: "tensorrt_llm_bls"
backend: "python"
parameters { key: "tensorrt_llm_model_name" value { string_value: "big" } }
parameters { key: "tensorrt_llm_draft_model_name" value { string_value: "small" } }
"""
OLD_ENGINE = """
name: "%s"
backend: "tensorrtllm"
max_batch_size: 4
model_transaction_policy { decoupled: false }
input [
  { name: "input_ids" data_type: TYPE_INT32 dims: [-1] allow_ragged_batch: true },
  { name: "input_lengths" data_type: TYPE_INT32 dims: [1] reshape: { shape: [] } },
  { name: "request_output_len" data_type: TYPE_INT32 dims: [1] reshape: { shape: [] } },
  { name: "random_seed" data_type: TYPE_UINT64 dims: [1] reshape: { shape: [] } optional: true }
]
output [ { name: "output_ids" data_type: TYPE_INT32 dims: [-1, -1] } ]
parameters { key: "gpt_model_type" value { string_value: "inflight_fused_batching" } }
parameters { key: "gpt_model_path" value { string_value: "${engine_dir}" } }
parameters { key: "exclude_input_in_output" value { string_value: "True" } }
parameters { key: "enable_kv_cache_reuse" value { string_value: "${enable_kv_cache_reuse}" } }
parameters { key: "tokenizer_dir" value { string_value: "${tokenizer_dir}" } }
parameters { key: "guided_decoding_backend" value { string_value: "" } }
parameters { key: "xgrammar_tokenizer_info_path" value { string_value: "" } }
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A repository from templates of 0.19, filled in halfway, under other names."""
    root = tmp_path / "old"
    for name, text in {
        "tensorrt_llm_bls": OLD_BLS,
        "big": OLD_ENGINE % "big",
        "small": OLD_ENGINE % "small",
    }.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").touch()
        (root / name / "config.pbtxt").write_text(text)
    return root


def test_an_old_repository_gets_every_finding_with_a_remedy(old: Path) -> None:
    findings = verify(old)
    assert {(finding.code, finding.subject) for finding in findings} == {
        (code, model)
        for model in ("big", "small")
        for code in (
            "config-placeholder",
            "engine-tensor-unknown",
            "engine-kv-reuse-off",
            "engine-input-excluded",
        )
    } | {("engine-memory-overcommitted", "big")}
    assert all(finding.reason and finding.remedy for finding in findings)


def test_a_placeholder_where_a_type_must_stand_is_named(old: Path) -> None:
    path = old / "big" / "config.pbtxt"
    path.write_text(path.read_text().replace("TYPE_UINT64", "${seed_type}"))
    found = [finding for finding in verify(old) if finding.subject == "big"]
    reasons = [finding.reason for finding in found if finding.code == "config-placeholder"]
    assert "${seed_type} was never filled in, where Triton needs a value" in reasons
    [together] = [reason for reason in reasons if reason.startswith("never filled in: ")]
    assert "${engine_dir}, ${enable_kv_cache_reuse}" in together


def test_engines_of_an_old_repository_are_read(old: Path, settings: Config) -> None:
    for name, role in (("big", "draft"), ("small", "target")):
        path = old / name / "config.pbtxt"
        path.write_text(path.read_text().replace("${engine_dir}", str(settings.engines_dir / role)))
    codes = {finding.code for finding in verify(old)}
    assert {"engine-verifies-nothing", "engine-draft-verifies"} <= codes


def test_every_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "repository.md").read_text(encoding="utf-8")
    for code, meaning in {**CODES, **ENGINE_CODES}.items():
        assert f"| `{code}` | {meaning} |" in page
