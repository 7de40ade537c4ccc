# SPDX-License-Identifier: Apache-2.0
"""The llmapi runtime: model.yaml, ModelOpt's quantised checkpoints, and what is refused before either."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from specbuild import artifacts, cli, config, pairing
from specbuild.config import Config
from specbuild.engines import contracts, llmapi, modelopt
from specbuild.engines.llmapi_arguments import model_yaml
from specbuild.engines.llmapi_versions import dialect
from support import checkpoints
from support.engines import Deployment, deployment
from support.trtllm_tools.install import Machine, machine

LLMAPI = {"runtime": "llmapi"}


def settings(root: Path, **sections: Mapping[str, Any]) -> Config:
    target, draft = checkpoints.pair(root)
    document: dict[str, Any] = {
        "name": "tiny",
        "runtime": "llmapi",
        "target": {"checkpoint": str(target)},
        "draft": {"checkpoint": str(draft)},
        "limits": {"max_batch_size": 4, "max_input_len": 100, "max_seq_len": 200},
        "output": str(root / "build"),
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section
    return config.validate(document, source="test")


def document(chosen: Config, **options: Any) -> dict[str, Any]:
    return model_yaml(chosen, dialect(chosen.tensorrt_llm.version), target="T", draft="D", **options)


def codes(chosen: Config) -> set[str]:
    return {finding.code for finding in pairing.inspect(chosen).findings if finding.code.startswith("llmapi")}


# --- arguments -------------------------------------------------------------------------------------


def test_the_settings_become_arguments(tmp_path: Path) -> None:
    chosen = settings(
        tmp_path,
        target={"tp_size": 4, "dtype": "bfloat16"},
        kv_cache={"dtype": "fp8", "free_gpu_memory_fraction": 0.8, "reuse": False},
    )
    made = document(chosen)
    assert (made["model"], made["tensor_parallel_size"], made["dtype"]) == ("T", 4, "bfloat16")
    assert (made["max_batch_size"], made["max_input_len"], made["max_seq_len"]) == (4, 100, 200)
    assert made["kv_cache_config"] == {
        "free_gpu_memory_fraction": 0.8,
        "enable_block_reuse": False,
        "dtype": "fp8",
    }
    assert "trust_remote_code" not in made


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 8192),
        ({"max_input_len": 20_000, "max_seq_len": 30_000}, 20_000),
        ({"max_batch_size": 4096}, 4096 * 6),
    ],
)
def test_one_pass_holds_the_longest_prompt_and_every_verification(
    tmp_path: Path, limits: dict[str, int], expected: int
) -> None:
    assert document(settings(tmp_path, limits=limits))["max_num_tokens"] == expected


@pytest.mark.parametrize("version", ["1.2.1", "1.4.0"])
@pytest.mark.parametrize("cost_ratio", [0.02, 0.3, 1.0, 5.0])
def test_speculation_stops_where_a_round_costs_more_than_it_gives(
    tmp_path: Path, version: str, cost_ratio: float
) -> None:
    chosen = settings(tmp_path, speculation={"draft_length": 7}, tensorrt_llm={"version": version})
    section = document(chosen, cost_ratio=cost_ratio)["speculative_config"]
    accepted = section.get("acceptance_length_threshold", 7 * section.get("acceptance_rate_threshold", 0))
    assert accepted == pytest.approx(7 * min(cost_ratio, 1), abs=1e-3)


def test_without_adaptive_speculation_nothing_stops(tmp_path: Path) -> None:
    section = document(settings(tmp_path, speculation={"adaptive": False}), cost_ratio=0.1)
    assert set(section["speculative_config"]) == {"decoding_type", "max_draft_len", "speculative_model"}


def test_the_users_own_arguments_win_section_by_section(tmp_path: Path) -> None:
    extra = {"enable_chunked_prefill": True, "kv_cache_config": {"host_cache_size": 10}, "max_num_tokens": 9}
    made = document(settings(tmp_path, llmapi={"arguments": extra}))
    assert (made["enable_chunked_prefill"], made["max_num_tokens"]) == (True, 9)
    assert made["kv_cache_config"]["host_cache_size"] == 10
    assert made["kv_cache_config"]["enable_block_reuse"] is True


# --- findings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, set()),
        ({"target": {"pp_size": 2}}, {"llmapi-pipeline-parallel"}),
        ({"draft": {"tp_size": 2}}, {"llmapi-draft-parallel"}),
        ({"target": {"tp_size": 2}, "draft": {"tp_size": 2}}, set()),
        ({"speculation": {"acceptance": "logits"}}, {"llmapi-acceptance"}),
        ({"speculation": {"acceptance": "logits"}, "tensorrt_llm": {"version": "1.4.0"}}, set()),
        ({"tensorrt_llm": {"version": "0.20.0"}}, {"llmapi-version-unsupported"}),
        ({"kv_cache": {"dtype": "int8"}}, {"llmapi-kv-dtype"}),
        ({"target": {"quantization": "int8_sq"}}, {"llmapi-quantization"}),
        ({"draft": {"quantization": "int4_wo"}}, {"llmapi-quantization"}),
        ({"target": {"quantization": "fp8"}}, set()),
        (
            {"target": {"quantization": "fp8"}, "tensorrt_llm": {"calibration_dataset": "mine"}},
            {"llmapi-calibration"},
        ),
        ({"tensorrt_llm": {"calibration_dataset": "mine"}}, set()),
    ],
)
def test_what_the_llm_api_cannot_do_is_found_before_anything_runs(
    tmp_path: Path, sections: dict[str, Any], expected: set[str]
) -> None:
    assert codes(settings(tmp_path, **sections)) == expected


def test_a_checkpoint_that_is_quantised_already_is_not_quantised_again(tmp_path: Path) -> None:
    chosen = settings(tmp_path, target={"quantization": "fp8"})
    folder = Path(chosen.target.checkpoint)
    (folder / "hf_quant_config.json").write_text("{}", encoding="utf-8")
    assert codes(chosen) == {"llmapi-quantization"}
    assert codes(chosen.model_copy(update={"target": config.Model(checkpoint=str(folder))})) == set()


# --- building --------------------------------------------------------------------------------------


def build(chosen: Config) -> str:
    said: list[str] = []
    llmapi.build(chosen, said.append)
    return said[-1]


def test_model_yaml_is_published_once_and_again_after_a_change(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    folder = chosen.engines_dir / "llmapi"
    assert build(chosen) == "model.yaml written"
    made = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
    assert made["model"] == chosen.target.checkpoint
    assert made["speculative_config"]["speculative_model"] == chosen.draft.checkpoint
    assert artifacts.damage(folder) == []
    assert build(chosen) == "model.yaml unchanged"
    longer = chosen.model_copy(update={"speculation": config.Speculation(draft_length=6)})
    assert build(longer) == "model.yaml written"


def test_the_command_names_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pair.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path).model_dump(mode="json", exclude_unset=True)))
    assert cli.run(["engines", "--config", str(path), "--json"]) == 0
    folder = tmp_path / "build" / "engines" / "llmapi"
    assert json.loads(capsys.readouterr().out) == {"engines": {"llmapi": str(folder)}}


def test_another_checkpoint_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    build(chosen)
    checkpoints.write(Path(chosen.draft.checkpoint), checkpoints.Recipe(layers=1))
    assert build(chosen) == "model.yaml written"


# --- quantising ------------------------------------------------------------------------------------


@pytest.fixture
def workshop(tmp_path: Path) -> Machine:
    return machine(tmp_path / "machine")


def quantised(root: Path, made: Machine, **sections: Any) -> Deployment:
    place = {"model_optimizer_dir": str(made.root / "Model-Optimizer")}
    chosen = {"target": {"quantization": "fp8"}, "tensorrt_llm": place} | sections
    result = deployment(root, made, chosen)
    document = yaml.safe_load(result.file.read_text(encoding="utf-8")) | LLMAPI
    result.file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return result


def runs(made: Machine) -> list[str]:
    path = made.root / "runs"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def served(made: Deployment) -> dict[str, Any]:
    return yaml.safe_load((made.engines / "llmapi" / "model.yaml").read_text(encoding="utf-8"))


def test_modelopt_quantises_what_is_asked_and_the_result_is_served(tmp_path: Path, workshop: Machine) -> None:
    made = quantised(tmp_path, workshop, kv_cache={"dtype": "fp8"})
    done = made.run()
    assert done.returncode == 0, done.stderr
    assert "✓ target-quantize (1 of 1)" in done.stderr and "engines-target-quantize.log" in done.stderr
    assert [line.split()[1:] for line in runs(workshop)] == [["fp8", "fp8"]]
    assert served(made)["model"] == str(made.engines / "target")
    assert served(made)["speculative_config"]["speculative_model"].endswith("models/draft")
    assert (made.engines / "target" / "hf_quant_config.json").is_file()
    assert artifacts.damage(made.engines / "target") == []
    assert made.run().returncode == 0
    assert len(runs(workshop)) == 1, "an unchanged checkpoint was quantised again"


def test_json_names_the_folders_of_this_runtime_only(tmp_path: Path, workshop: Machine) -> None:
    made = quantised(tmp_path, workshop)
    (made.engines / "draft").mkdir(parents=True)  # engines of another runtime
    written = json.loads(made.run("--json").stdout)["engines"]
    assert written == {name: str(made.engines / name) for name in ("target", "llmapi")}


def test_another_release_of_the_script_quantises_again(tmp_path: Path, workshop: Machine) -> None:
    made = quantised(tmp_path, workshop)
    assert made.run().returncode == 0
    script = next((workshop.root / "Model-Optimizer").rglob("hf_ptq.py"))
    script.write_text(script.read_text(encoding="utf-8") + "# newer\n", encoding="utf-8")
    assert made.run().returncode == 0
    assert len(runs(workshop)) == 2


def test_an_unquantised_cache_is_asked_for_by_name(tmp_path: Path, workshop: Machine) -> None:
    made = quantised(tmp_path, workshop, draft={"quantization": "int4_awq"})
    assert made.run().returncode == 0
    assert [line.split()[1:] for line in runs(workshop)] == [["fp8", "none"], ["int4_awq", "none"]]


def test_without_tensorrt_llm_modelopt_runs_in_the_image(tmp_path: Path) -> None:
    made = machine(tmp_path / "machine", local=False, docker=True)
    done = quantised(tmp_path, made).run()
    assert done.returncode == 0, done.stderr
    assert len(runs(made)) == 1


@pytest.mark.parametrize("kind", ["cuda-out-of-memory", "killed"])
def test_a_failure_publishes_nothing_and_shows_the_log(tmp_path: Path, workshop: Machine, kind: str) -> None:
    made = quantised(tmp_path, workshop)
    workshop.fault(kind)
    done = made.run()
    assert done.returncode == 1
    assert "target-quantize" in done.stderr and "fix:" in done.stderr
    assert not (made.engines / "target").exists() and not (made.engines / "llmapi").exists()
    assert made.leftovers() == []
    workshop.fault(None)
    assert made.run().returncode == 0


def test_an_export_for_engines_is_not_taken_for_a_checkpoint(tmp_path: Path, workshop: Machine) -> None:
    (workshop.root / "no-hf-quant-config").touch()
    made = quantised(tmp_path, workshop)
    done = made.run()
    assert done.returncode == 1 and "did not write hf_quant_config.json" in done.stderr
    assert not (made.engines / "target").exists()


def test_without_the_script_the_way_to_get_it_is_named(tmp_path: Path) -> None:
    made = quantised(tmp_path, machine(tmp_path / "machine"))
    done = made.run("--set", f"tensorrt_llm.model_optimizer_dir={tmp_path}")
    assert done.returncode == 1
    assert f"git clone -b {modelopt.RELEASE}" in done.stderr


def test_a_dry_run_shows_commands_and_file_and_writes_nothing(tmp_path: Path, workshop: Machine) -> None:
    made = quantised(tmp_path, workshop)
    text = made.run("--dry-run").stdout
    assert "hf_ptq.py" in text and "--qformat fp8" in text and "# speculative_config:" in text
    shown = json.loads(made.run("--dry-run", "--json").stdout)
    assert [step["name"] for step in shown["steps"]] == ["target-quantize"]
    contracts.parse("hf_ptq", shown["steps"][0]["argv"][2:])
    assert shown["model.yaml"]["speculative_config"]["decoding_type"] == "DraftTarget"
    assert not made.output.exists() and runs(workshop) == []


def test_without_quantization_nothing_is_run(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    assert "nothing has to be run" in llmapi.preview(chosen).text
    assert llmapi.preview(chosen).document["steps"] == []
