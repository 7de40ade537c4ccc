# SPDX-License-Identifier: Apache-2.0
"""The repository of TensorRT engines against what NVIDIA's backend knows.

``data/triton_tensorrt_llm_model.json`` is an extract of TensorRT-LLM 1.2's template, and what the package
carries as its own contract must say the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specbuild import repository, resources
from specbuild.config import Config
from specbuild.errors import RepositoryError
from specbuild.repository import contracts, modelconfig, publish
from specbuild.repository.modelconfig import ModelConfig
from specbuild.repository.placement import ENGINE_MODELS
from specbuild.repository.tensorrt_llm import MODELS
from specclient import protocol
from support import trt_engines

TEMPLATE = json.loads(
    (Path(__file__).parent / "data" / "triton_tensorrt_llm_model.json").read_text(encoding="utf-8")
)
ENGINES = tuple(ENGINE_MODELS.values())


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    settings = trt_engines.settings_for(tmp_path / "build", speculation={"draft_length": 4})
    trt_engines.write(settings)
    return settings


def base(model: str) -> ModelConfig:
    return modelconfig.read(resources.folder("model_repository") / model)


def generated(settings: Config) -> dict[str, ModelConfig]:
    return {name: modelconfig.parse(text) for name, text in publish.plan(settings).configs.items()}


def parameters(message: ModelConfig) -> dict[str, str]:
    return {key: value.string_value for key, value in message.parameters.items()}


def tensor(row: dict[str, Any]) -> tuple[str, tuple[int, ...], bool]:
    return row["name"], tuple(row["dims"]), row.get("optional", False)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_the_packaged_contract_is_nvidias_template(side: str) -> None:
    known = contracts.inputs() if side == "inputs" else contracts.outputs()
    assert set(known) == {row["name"] for row in TEMPLATE[side]}
    for row in TEMPLATE[side]:
        assert known[row["name"]].dims == tuple(row["dims"])
        if not row["data_type"].startswith("${"):
            assert known[row["name"]].data_type == row["data_type"]
    assert {row["key"] for row in TEMPLATE["parameters"]} <= set(contracts.parameters())


def test_drift_between_template_generations_is_data() -> None:
    older = TEMPLATE["difference_from_v0.19.0"]
    assert sorted(contracts.renamed_inputs()) == sorted(older["inputs_gone"])
    assert set(contracts.renamed_inputs().values()) <= set(older["inputs_added"])


@pytest.mark.parametrize("model", ENGINES)
def test_every_tensor_of_an_engine_model_is_one_that_the_backend_knows(model: str) -> None:
    message = base(model)
    rows = {side: {row["name"]: tensor(row) for row in TEMPLATE[side]} for side in ("inputs", "outputs")}
    for declared in message.input:
        assert (declared.name, tuple(declared.dims), declared.optional) == rows["inputs"][declared.name]
        contract = contracts.inputs()[declared.name]
        assert contract.accepts(modelconfig.data_type(declared.data_type))
    for declared in message.output:
        assert (declared.name, tuple(declared.dims), False) == rows["outputs"][declared.name]


@pytest.mark.parametrize("model", ENGINES)
def test_reshapes_and_ragged_inputs_are_the_templates(model: str) -> None:
    rows = {row["name"]: row for row in TEMPLATE["inputs"]}
    for declared in base(model).input:
        row = rows[declared.name]
        assert declared.allow_ragged_batch == row.get("allow_ragged_batch", False)
        assert declared.HasField("reshape") == ("reshape" in row)
        assert list(declared.reshape.shape) == []


@pytest.mark.parametrize("model", ENGINES)
def test_every_generated_parameter_is_one_that_the_backend_reads(settings: Config, model: str) -> None:
    values = parameters(generated(settings)[model])
    for key, value in values.items():
        assert contracts.parameters()[key].complaint(value) is None
    required = {key for key, row in contracts.parameters().items() if row.required}
    assert required <= set(values)
    # Empty would be read as a wrong value; only these two are asked for without a look at their content.
    empty = {key for key, value in values.items() if not value}
    assert empty == {"xgrammar_tokenizer_info_path", "guided_decoding_backend"}


def test_the_draft_model_is_the_targets_without_draft_tokens() -> None:
    target, draft = (base(name) for name in ENGINES)
    names = [row.name for row in target.input]
    assert [row.name for row in draft.input] == [name for name in names if not name.startswith("draft_")]
    draft.name = target.name
    del draft.input[:]
    draft.input.extend(target.input)
    assert draft == target


def test_a_generated_repository_has_no_finding(settings: Config) -> None:
    assert repository.write(settings)
    assert repository.verify(settings.repository_dir) == []
    models = {path.name for path in settings.repository_dir.iterdir() if path.is_dir()}
    assert models == set(MODELS)
    assert not repository.write(settings)


def test_what_a_draft_target_pair_needs_is_set(settings: Config) -> None:
    models = generated(settings)
    for role, name in ENGINE_MODELS.items():
        values = parameters(models[name])
        assert values["gpt_model_path"] == str(settings.engines_dir / role)
        assert values["enable_kv_cache_reuse"] == "true"
        assert values["exclude_input_in_output"] == "false"
        assert values["max_beam_width"] == "1"
        assert models[name].max_batch_size == settings.limits.max_batch_size
    speculative = parameters(models["speculative"])
    assert speculative["tensorrt_llm_model_name"] == "tensorrt_llm"
    assert speculative["tensorrt_llm_draft_model_name"] == "tensorrt_llm_draft"
    assert speculative["max_draft_len"] == "4"
    assert speculative["acceptance"] == "exact"


def test_both_engines_get_one_kv_budget(settings: Config) -> None:
    models = generated(settings)
    budgets = [parameters(models[name])["max_tokens_in_paged_kv_cache"] for name in ENGINES]
    assert budgets[0] == budgets[1]
    assert int(budgets[0]) > settings.limits.max_seq_len


def test_without_the_gpus_memory_the_fraction_is_divided(tmp_path: Path) -> None:
    settings = trt_engines.settings_for(tmp_path)
    trt_engines.write(settings, gpu_memory=None)
    models = generated(settings)
    for name, share in zip(ENGINES, ("0.72", "0.18"), strict=True):
        values = parameters(models[name])
        assert values["kv_cache_free_gpu_mem_fraction"] == share
        assert "max_tokens_in_paged_kv_cache" not in values


def test_fast_logits_come_with_their_ranks(tmp_path: Path) -> None:
    settings = trt_engines.settings_for(
        tmp_path,
        target={"tp_size": 2, "gpus": [1, 2]},
        draft={"gpus": [0]},
        speculation={"acceptance": "logits"},
    )
    trt_engines.write(settings)
    models = generated(settings)
    placed = {
        name: [
            parameters(models[name])[key]
            for key in ("gpu_device_ids", "participant_ids", "speculative_decoding_fast_logits")
        ]
        for name in ENGINES
    }
    assert placed == {"tensorrt_llm": ["1,2", "2,3", "true"], "tensorrt_llm_draft": ["0", "1", "true"]}


def test_spawned_workers_have_no_ranks(settings: Config) -> None:
    for name in ENGINES:
        values = parameters(generated(settings)[name])
        assert values["gpu_device_ids"] == "0"
        assert not {"participant_ids", "speculative_decoding_fast_logits"} & set(values)


@pytest.mark.parametrize(
    ("role", "section", "facts", "reason"),
    [
        ("target", "build_config", {"max_draft_len": 2}, "takes 2 draft tokens"),
        ("target", "build_config", {"speculative_decoding_mode": 1}, "takes 0 draft tokens"),
        ("draft", "build_config", {"max_batch_size": 2}, "draft engine was built with max_batch_size 2"),
        ("draft", "build_config", {"max_seq_len": 64}, "draft engine was built with max_seq_len 64"),
        ("target", "pretrained_config", {"mapping": {"tp_size": 2}}, "tp_size 2, the configuration says 1"),
    ],
)
def test_engines_of_another_configuration_are_refused(
    settings: Config, role: str, section: str, facts: dict[str, Any], reason: str
) -> None:
    trt_engines.change(settings.engines_dir / role, section, **facts)
    with pytest.raises(RepositoryError, match=reason):
        publish.plan(settings)


def test_baseline_is_the_front_model_without_drafts() -> None:
    baseline, front = base("ensemble_baseline"), base(protocol.FRONT_MODEL)
    assert [row for row in front.input if row.name != "num_draft_tokens"] == list(baseline.input)
    assert list(baseline.output) == list(front.output)
    steps = [step.model_name for step in baseline.ensemble_scheduling.step]
    assert steps == ["preprocessing", "tensorrt_llm", "postprocessing"]


def test_baseline_feeds_the_engine_as_nvidias_ensemble_does() -> None:
    theirs = json.loads((Path(__file__).parent / "data" / "triton_ensemble.json").read_text())["steps"][1]
    step = base("ensemble_baseline").ensemble_scheduling.step[1]
    assert dict(step.input_map).items() <= theirs["input_map"].items()
    assert set(step.output_map) == set(theirs["output_map"])


def test_no_ensemble_takes_more_rows_than_its_models(settings: Config) -> None:
    """Triton refuses to load such an ensemble."""
    models = generated(settings)
    for name in ("ensemble", "ensemble_baseline"):
        for step in models[name].ensemble_scheduling.step:
            assert models[name].max_batch_size <= models[step.model_name].max_batch_size


def test_every_input_of_an_ensemble_is_used(settings: Config) -> None:
    """Triton refuses to load an ensemble with one that is not."""
    models = generated(settings)
    for name in ("ensemble", "ensemble_baseline"):
        used = {value for step in models[name].ensemble_scheduling.step for value in step.input_map.values()}
        assert {row.name for row in models[name].input} <= used


def test_speculative_is_called_as_the_torch_model_is(settings: Config) -> None:
    torch = base(protocol.FRONT_MODEL).ensemble_scheduling.step[1]
    step = generated(settings)["ensemble"].ensemble_scheduling.step[1]
    assert step.model_name == "speculative"
    assert (step.input_map, step.output_map) == (torch.input_map, torch.output_map)
    assert parameters(generated(settings)["postprocessing"])["generator"] == "speculative"
