# SPDX-License-Identifier: Apache-2.0
"""From engines to the LLM API: nothing is lost silently, and what comes out is a valid configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from specbuild import cli, config, migration
from specbuild.errors import ConfigError, RepositoryError
from specbuild.migration import Migration, Note
from specbuild.migration.repository import Hints
from support.engine_repository import Layout, write, write_engine

ROOT = Path(__file__).parents[2]
PRESETS = [
    path
    for path in sorted((ROOT / "configs").glob("*.yaml"))
    if "runtime: tensorrt_llm" in path.read_text(encoding="utf-8")
]
HINTS = Hints(target="org/target", draft="org/draft")


def configured(**sections: Any) -> config.Config:
    document: dict[str, Any] = {
        "name": "old",
        "runtime": "tensorrt_llm",
        "target": {"checkpoint": "org/target"},
        "draft": {"checkpoint": "org/draft"},
        "output": "build/old",
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section if isinstance(section, dict) else section
    return config.validate(document, source="test")


def note(result: Migration, setting: str) -> Note:
    found = [note for note in result.notes if note.setting == setting]
    assert len(found) == 1, f"{len(found)} notes about {setting}"
    return found[0]


# --- a configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_engine_preset_becomes_a_valid_configuration(preset: Path) -> None:
    settings = config.load(preset)
    result = migration.translate(settings)
    made = config.validate(result.document, source="migrated")
    assert (made.runtime, made.target.checkpoint) == ("llmapi", settings.target.checkpoint)
    assert (
        made.limits == settings.limits and made.speculation.draft_length == settings.speculation.draft_length
    )
    assert made.output != settings.output, "the engines would be replaced"


def test_there_are_engine_presets() -> None:
    assert PRESETS


def test_every_written_setting_is_accounted_for() -> None:
    settings = configured(limits={"max_batch_size": 3}, serving={"grpc_port": 9001}, draft={"tp_size": 2})
    result = migration.translate(settings)
    named = {note.setting for note in result.notes}
    assert {"limits.max_batch_size", "serving.grpc_port", "draft.tp_size", "target.checkpoint"} <= named
    assert {"name", "runtime", "output"} <= named
    assert note(result, "serving.grpc_port").kind == "carried"
    assert not {name for name in named if name.startswith("torch.")}, "defaults are no settings"


@pytest.mark.parametrize(
    ("sections", "setting", "kind", "key", "value"),
    [
        ({"target": {"tp_size": 2, "pp_size": 2}}, "target.tp_size", "changed", "tp_size", 4),
        ({"target": {"tp_size": 2, "pp_size": 2}}, "target.pp_size", "changed", "pp_size", 1),
        ({"target": {"quantization": "int8_sq"}}, "target.quantization", "lost", "quantization", None),
        ({"target": {"quantization": "fp8"}}, "target.quantization", "changed", "quantization", "fp8"),
    ],
)
def test_what_the_llm_api_does_otherwise_is_changed_with_a_reason(
    sections: dict[str, Any], setting: str, kind: str, key: str, value: object
) -> None:
    result = migration.translate(configured(**sections))
    found = note(result, setting)
    assert found.kind == kind and found.reason
    assert result.document["target"].get(key) == value


def test_a_cache_and_an_acceptance_that_do_not_exist_are_replaced() -> None:
    result = migration.translate(
        configured(kv_cache={"dtype": "int8"}, speculation={"acceptance": "logits", "draft_length": 3})
    )
    assert result.document["kv_cache"]["dtype"] == "auto"
    assert result.document["speculation"] == {"acceptance": "exact", "draft_length": 3}


def test_rejection_sampling_stays_where_it_exists() -> None:
    result = migration.translate(
        configured(speculation={"acceptance": "logits"}, tensorrt_llm={"version": "1.4.0"})
    )
    assert note(result, "speculation.acceptance").kind == "carried"


def test_a_long_name_still_fits() -> None:
    assert len(migration.translate(configured(name="n" * 64)).document["name"]) == 64


@pytest.mark.parametrize("runtime", ["llmapi", "torch"])
def test_other_runtimes_have_nothing_to_migrate(runtime: str) -> None:
    with pytest.raises(ConfigError, match=runtime):
        migration.translate(configured(runtime=runtime))


# --- a repository ----------------------------------------------------------------------------------


def repository(root: Path, *, target: dict[str, str] | None = None, **options: Any) -> Path:
    engines = {"target": root / "engines" / "target", "draft": root / "engines" / "draft"}
    if not engines["target"].exists():
        write_engine(engines["target"], draft_length=5)
        write_engine(engines["draft"])
    given = {"gpt_model_path": str(engines["target"])} | (target or {})
    draft = {"gpt_model_path": str(engines["draft"])} | options.pop("draft", {})
    return write(root / "models", Layout(target=given, draft=draft, **options))


def recovered(root: Path, hints: Hints = HINTS, **options: Any) -> Migration:
    return migration.recover(repository(root, **options), hints)


@pytest.mark.parametrize("generation", ["new", "old"])
def test_nvidias_layout_becomes_a_configuration(tmp_path: Path, generation: str) -> None:
    result = recovered(tmp_path, generation=generation, max_queue_size=7)
    made = config.validate(result.document, source="recovered")
    assert (made.target.checkpoint, made.draft.checkpoint) == ("org/target", "org/draft")
    assert made.speculation.draft_length == 5 and made.speculation.adaptive is False
    assert (made.limits.max_batch_size, made.limits.max_input_len, made.limits.max_seq_len) == (8, 3200, 4800)
    assert (made.tensorrt_llm.version, made.serving.max_queue_size) == ("1.2.1", 7)
    assert made.kv_cache.reuse is True and made.target.dtype == "bfloat16"
    renamed = {note.setting for note in result.notes if note.setting.startswith("input ")}
    assert renamed == ({"input random_seed", "input min_length"} if generation == "old" else set())


def test_the_bls_model_says_which_models_are_meant(tmp_path: Path) -> None:
    result = recovered(tmp_path, names=("big", "small"), target={"cuda_graph_mode": "true"})
    assert result.document["speculation"]["draft_length"] == 5
    assert note(result, "big/cuda_graph_mode").kind == "lost"


def test_parameters_become_arguments_where_the_llm_api_has_them(tmp_path: Path) -> None:
    result = recovered(
        tmp_path,
        target={
            "enable_chunked_context": "true",
            "max_tokens_in_paged_kv_cache": "4096",
            "max_attention_window_size": "2048,4096",
            "kv_cache_host_memory_bytes": "1000",
            "batch_scheduler_policy": "max_utilization",
        },
    )
    assert result.document["llmapi"]["arguments"] == {
        "enable_chunked_prefill": True,
        "kv_cache_config": {
            "max_tokens": 4096,
            "max_attention_window": [2048, 4096],
            "host_cache_size": 1000,
        },
        "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
    }


def test_every_other_parameter_is_named_once_with_a_reason(tmp_path: Path) -> None:
    both = {"speculative_decoding_fast_logits": "1", "something_new": "x"}
    result = recovered(tmp_path, target=both, draft=both | {"lora_cache_max_adapter_size": "64"})
    for setting in (
        "tensorrt_llm, tensorrt_llm_draft/speculative_decoding_fast_logits",
        "tensorrt_llm, tensorrt_llm_draft/something_new",
        "tensorrt_llm_draft/lora_cache_max_adapter_size",
    ):
        assert note(result, setting).kind == "lost" and note(result, setting).reason
    assert not [note for note in result.notes if "${" in note.value], "a placeholder is no setting"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [(("0.6", "0.5"), 0.8), (("0.9", "0.9"), 0.9), (("0.7", None), 0.7), ((None, None), 0.9)],
)
def test_two_cache_budgets_become_one(
    tmp_path: Path, shares: tuple[str | None, str | None], expected: float
) -> None:
    key = "kv_cache_free_gpu_mem_fraction"
    target, draft = ({key: share} if share else {} for share in shares)
    result = recovered(tmp_path, target=target, draft=draft)
    assert result.document["kv_cache"]["free_gpu_memory_fraction"] == expected


def test_engines_tell_format_and_parallelism(tmp_path: Path) -> None:
    write_engine(
        tmp_path / "engines" / "target",
        draft_length=4,
        max_input_len=4800,
        max_beam_width=2,
        gather_generation_logits=True,
        pretrained_mapping={"tp_size": 4, "pp_size": 1},
        pretrained_quantization={"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    )
    write_engine(tmp_path / "engines" / "draft", pretrained_quantization={"quant_algo": "W8A8_ODD"})
    result = recovered(tmp_path)
    assert result.document["target"]["quantization"] == "fp8"
    assert result.document["target"]["tp_size"] == 4
    assert result.document["kv_cache"]["dtype"] == "fp8"
    assert result.document["limits"]["max_input_len"] == 4799
    assert "quantization" not in result.document["draft"]
    assert note(result, "engine/max_beam_width").kind == "lost"
    assert note(result, "engine/gather_generation_logits").kind == "lost"


def test_each_setting_has_one_note(tmp_path: Path) -> None:
    write_engine(tmp_path / "engines" / "target", draft_length=4, max_input_len=4800)
    write_engine(tmp_path / "engines" / "draft")
    found = migration.recover(repository(tmp_path), HINTS)
    settings = config.validate(found.document, source="recovered")
    names = [note.setting for note in migration.translate(settings, before=found.notes).notes]
    assert names.count("limits.max_input_len") == 1
    assert len(names) == len(set(names))


def test_an_engine_of_an_unsupported_release_moves_to_the_recommended_one(tmp_path: Path) -> None:
    write_engine(tmp_path / "engines" / "target", draft_length=4, version="0.17.0.post1")
    write_engine(tmp_path / "engines" / "draft", version="0.17.0.post1")
    settings = config.validate(recovered(tmp_path).document, source="recovered")
    result = migration.translate(settings)
    assert result.document["tensorrt_llm"]["version"] == "1.2.1"
    assert note(result, "tensorrt_llm.version").kind == "changed"


def test_the_tokenizers_folder_is_the_target_if_it_is_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    result = recovered(tmp_path, hints=Hints(draft="org/draft"), tokenizer=str(folder))
    assert result.document["target"]["checkpoint"] == str(folder)
    assert "--target" in note(result, "target.checkpoint").reason


def test_specbuilds_own_engines_know_their_checkpoints(tmp_path: Path) -> None:
    models = repository(tmp_path)
    for role in ("target", "draft"):
        facts = {"schema": 1, "key": "k", "files": {}, "facts": {"checkpoint": f"/models/{role}"}}
        (tmp_path / "engines" / role / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
    document = migration.recover(models, Hints()).document
    assert document["target"]["checkpoint"] == "/models/target"
    assert document["draft"]["checkpoint"] == "/models/draft"


def test_engines_on_another_machine_are_asked_for(tmp_path: Path) -> None:
    away = {"gpt_model_path": "/engines/target"}
    models = repository(tmp_path, target=away, draft={"gpt_model_path": "/engines/draft"})
    with pytest.raises(ConfigError, match="not on this machine") as caught:
        migration.recover(models, HINTS)
    assert "--engine" in caught.value.remedy
    engine = tmp_path / "engines" / "target"
    result = migration.recover(models, Hints("org/target", "org/draft", target_engine=engine))
    assert result.document["speculation"]["draft_length"] == 5
    assert "--draft-engine" in note(result, "draft engine").reason


def test_a_checkpoint_that_nobody_knows_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="draft engine was made from") as caught:
        recovered(tmp_path, hints=Hints(target="org/target"))
    assert "--draft" in caught.value.remedy


# --- what is no repository with engines ------------------------------------------------------------


def test_an_unfilled_template_is_named_with_its_placeholders(tmp_path: Path) -> None:
    models = repository(tmp_path)
    file = models / "tensorrt_llm" / "config.pbtxt"
    text = file.read_text(encoding="utf-8").replace("decoupled: false", "decoupled: ${decoupled_mode}")
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RepositoryError, match="decoupled_mode") as caught:
        migration.recover(models, HINTS)
    assert "participant_ids" not in str(caught.value), "inside quotes a placeholder is legal"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "holds no model"),
        ({"m/config.pbtxt": "name: ["}, "m/config.pbtxt"),
        ({"m/config.pbtxt": b"\xff\xfe"}, "m/config.pbtxt"),
        ({"m/config.pbtxt": 'name: "m"'}, "has no model tensorrt_llm"),
        ({"m/config.pbtxt": 'name: "m"', "m/1/model.yaml": "model: x"}, "uses the LLM API already"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, files: dict[str, str | bytes], text: str) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RepositoryError, match=text):
        migration.recover(tmp_path, HINTS)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{}", "version"),
        ('{"version": "1.2.1"}', "build_config"),
        (
            '{"version": "new", "build_config": {"max_batch_size": 1, "max_input_len": 1, "max_seq_len": 2}}',
            "new",
        ),
    ],
)
def test_a_config_json_of_something_else_is_refused(tmp_path: Path, content: str, text: str) -> None:
    models = repository(tmp_path)
    (tmp_path / "engines" / "target" / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=text):
        migration.recover(models, HINTS)


# --- the command -----------------------------------------------------------------------------------

CHECKPOINTS = ["--target", "org/target", "--draft", "org/draft"]


def test_the_command_writes_a_configuration_that_specbuild_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new.yaml"
    argv = ["migrate", str(repository(tmp_path)), *CHECKPOINTS, "--output", str(output)]
    assert cli.run(argv) == 0
    assert "changed" in capsys.readouterr().out
    assert config.load(output).runtime == "llmapi"
    assert cli.run(argv) == 2, "an existing file was overwritten"


def test_without_output_the_yaml_is_on_stdout_and_the_list_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["migrate", str(repository(tmp_path)), *CHECKPOINTS]) == 0
    captured = capsys.readouterr()
    assert yaml.safe_load(captured.out)["runtime"] == "llmapi"
    assert "carried" in captured.err and "lost" in captured.err


def test_json_holds_the_configuration_and_three_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["migrate", str(repository(tmp_path)), *CHECKPOINTS, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"config", "carried", "changed", "lost"}
    assert all(set(row) == {"setting", "value", "reason"} for row in document["lost"])


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["absent.yaml"], 2, "cannot read absent.yaml"),
        (["absent.yaml", "--target", "x"], 2, "are for a model repository"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_use_is_explained(
    argv: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["migrate", *argv]) == code
    assert text in capsys.readouterr().err
