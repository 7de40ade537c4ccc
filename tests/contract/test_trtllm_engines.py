# SPDX-License-Identifier: Apache-2.0
"""``specbuild engines`` against the stand-in tool chain: families, formats, docker, caching, read-back."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from specbuild import artifacts
from support.checkpoints import Recipe, as_hub_cache, edit_json
from support.engines import BFLOAT16, DRAFT, TARGET, Deployment, deployment
from support.trtllm_tools import devices
from support.trtllm_tools.install import Machine, machine

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def of_family(model_type: str, hidden: int, layers: int) -> Recipe:
    kind = {"model_type": model_type, "architectures": [FAMILIES[model_type]], "head_dim": hidden // 4}
    return Recipe(hidden=hidden, layers=layers, config=BFLOAT16 | kind)


@pytest.fixture
def local(tmp_path: Path) -> Machine:
    return machine(tmp_path / "machine")


def build_config(made: Deployment, role: str) -> dict[str, Any]:
    return json.loads((made.engines / role / "config.json").read_text())["build_config"]


# --- what is built -------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("quantization", [None, "fp8"])
def test_each_family_becomes_a_pair_of_engines(
    tmp_path: Path, local: Machine, model_type: str, quantization: str | None
) -> None:
    made = deployment(
        tmp_path,
        local,
        {"target": {"quantization": quantization}},
        target=of_family(model_type, 256, 3),
        draft=of_family(model_type, 256, 1),
    )
    done = made.run()
    assert done.returncode == 0, done.stderr
    for role in ("target", "draft"):
        assert artifacts.damage(made.engines / role) == []
    assert build_config(made, "target")["speculative_decoding_mode"] == 2
    assert build_config(made, "draft")["speculative_decoding_mode"] == 1


@pytest.mark.parametrize(
    "quantization", ["int8_wo", "int4_wo", "int4_awq", "w4a8_awq", "int8_sq", "fp8_pc_pt"]
)
def test_each_format_of_hopper_is_built(tmp_path: Path, local: Machine, quantization: str) -> None:
    made = deployment(tmp_path, local, {"target": {"quantization": quantization, "tp_size": 2}})
    done = made.run()
    assert done.returncode == 0, done.stderr
    assert (made.engines / "target" / "rank1.engine").is_file()


def test_nvfp4_is_built_on_blackwell(tmp_path: Path) -> None:
    blackwell = machine(tmp_path / "machine", gpus=[devices.B200])
    models = {"target": {"quantization": "nvfp4"}, "draft": {"quantization": "nvfp4"}}
    made = deployment(tmp_path, blackwell, models | {"kv_cache": {"dtype": "fp8"}})
    done = made.run()
    assert done.returncode == 0, done.stderr
    plugins = build_config(made, "target")["plugin_config"]
    assert plugins["gemm_plugin"] == "nvfp4"
    assert plugins["use_paged_context_fmha"]


def test_ranks_of_tensor_and_pipeline_parallelism_are_all_there(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local, {"target": {"tp_size": 2, "pp_size": 2}})
    assert made.run().returncode == 0
    ranks = sorted(path.name for path in (made.engines / "target").glob("rank*"))
    assert ranks == [f"rank{rank}.engine" for rank in range(4)]


def test_the_manifest_says_what_was_built_from_what(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    assert made.run().returncode == 0
    manifest = made.manifest("engines/target")
    assert {"rank0.engine", "config.json", "tokenizer/tokenizer.json"} <= set(manifest["files"])
    facts = manifest["facts"]
    assert facts["tensorrt_llm"] == "1.2.1"
    assert facts["gpus"][0].items() >= {"name": devices.H100["name"], "compute_capability": "9.0"}.items()
    assert "--max_draft_len" in facts["step"]["argv"]
    assert len(facts["checkpoint_digest"]) == 64


def test_the_image_builds_what_a_local_installation_builds(tmp_path: Path) -> None:
    built = {}
    for name, options in {"here": {"local": True}, "image": {"local": False, "docker": True}}.items():
        made = deployment(tmp_path / name, machine(tmp_path / name / "machine", **options))
        done = made.run()
        assert done.returncode == 0, done.stderr
        built[name] = build_config(made, "target") | {"output_timing_cache": None}
    assert built["here"] == built["image"]


def test_a_checkpoint_in_the_hub_cache_is_visible_in_the_container(tmp_path: Path) -> None:
    made = deployment(tmp_path, machine(tmp_path / "machine", local=False, docker=True))
    snapshot = as_hub_cache(tmp_path / "hub", tmp_path / "models" / "target")
    done = made.run("--set", f"target.checkpoint={snapshot}")
    assert done.returncode == 0, done.stderr


def test_paths_with_spaces_commas_and_quotes_work_in_the_container(tmp_path: Path) -> None:
    root = tmp_path / "a, \"b\" 'c' é"
    made = deployment(root, machine(tmp_path / "machine", local=False, docker=True))
    done = made.run()
    assert done.returncode == 0, done.stderr


# --- the plan on paper ---------------------------------------------------------------------------


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    done = made.run("--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document) == ["steps"]
    for step in document["steps"]:
        assert list(step) == ["name", "model", "argv", "env", "inputs", "outputs", "key"]
    names = [step["name"] for step in document["steps"]]
    assert names == ["target-convert", "target-build", "draft-convert", "draft-build"]
    assert not made.output.exists()


@pytest.mark.parametrize("where", ["here", "image"])
def test_the_printed_commands_can_be_pasted_into_a_shell(tmp_path: Path, where: str) -> None:
    options = {"local": where == "here", "docker": where == "image"}
    made = deployment(tmp_path / "with space", machine(tmp_path / "machine", **options))
    done = made.run("--dry-run")
    subprocess.run(["sh", "-e"], input=done.stdout, text=True, check=True, env=made.machine.env, timeout=60)
    assert build_config(made, "target")["max_draft_len"] == 5


def test_a_plan_can_be_shown_without_gpu_and_docker(tmp_path: Path) -> None:
    bare = machine(tmp_path / "machine", local=False, gpus=[])
    (tmp_path / "machine" / "bin" / "nvidia-smi").unlink()
    done = deployment(tmp_path, bare).run("--dry-run")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout.splitlines()[5])
    assert command[:2] == ["docker", "run"]
    assert "trtllm-build" not in command


def test_the_torch_runtime_has_no_commands_to_show(tmp_path: Path, local: Machine) -> None:
    done = deployment(tmp_path, local).run("--dry-run", "--set", "runtime=torch")
    assert done.returncode == 2
    assert "runs no commands" in done.stderr


# --- the cache -----------------------------------------------------------------------------------


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    """What the last line of progress says."""
    assert done.returncode == 0, done.stderr
    return done.stderr.strip().splitlines()[-1]


def steps_run(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [line.split()[1] for line in done.stderr.splitlines() if line.startswith("✓") and " of " in line]


def test_an_unchanged_pair_is_skipped_in_under_a_second(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    made.run()
    start = time.monotonic()
    done = made.run()
    assert steps_run(done) == []
    assert "target unchanged, draft unchanged" in outcome(done)
    assert time.monotonic() - start < 5  # a loaded test machine; measured at 0.3 s


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        ("speculation.draft_length=3", ["target-build"]),
        ("limits.max_batch_size=3", ["target-build", "draft-build"]),
        ("draft.dtype=float16", ["draft-convert", "draft-build"]),
        ("target.quantization=fp8", ["target-quantize", "target-build"]),
        ("speculation.acceptance=logits", ["target-build", "draft-build"]),
        ("serving.http_port=9000", []),
        ("limits.max_input_len=100", []),  # the engines take every length up to max_seq_len
    ],
)
def test_a_change_rebuilds_exactly_the_steps_that_depend_on_it(
    tmp_path: Path, local: Machine, change: str, rebuilt: list[str]
) -> None:
    made = deployment(tmp_path, local)
    made.run()
    assert steps_run(made.run("--set", change)) == rebuilt
    assert steps_run(made.run("--set", change)) == []


def test_another_gpu_rebuilds_the_engines_and_not_the_checkpoints(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    made.run()
    (local.root / "gpus.json").write_text(json.dumps([devices.A100]))
    assert steps_run(made.run()) == ["target-build", "draft-build"]


def test_new_weights_rebuild_their_model(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    made.run()
    edit_json(tmp_path / "models" / "draft" / "generation_config.json", temperature=0.5)
    assert steps_run(made.run()) == ["draft-convert", "draft-build"]


def test_other_calibration_data_is_noticed(tmp_path: Path, local: Machine) -> None:
    data = tmp_path / "calibration" / "train"
    data.mkdir(parents=True)
    (data / "part.jsonl").write_text('{"text": "one"}\n')
    settings = {
        "target": {"quantization": "fp8"},
        "tensorrt_llm": {"calibration_dataset": str(data.parent)},
    }
    made = deployment(tmp_path, local, settings)
    made.run()
    assert steps_run(made.run()) == []
    (data / "part.jsonl").write_text('{"text": "two"}\n')
    assert steps_run(made.run()) == ["target-quantize", "target-build"]


def test_checkpoints_may_be_deleted_after_the_build(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    made.run()
    shutil.rmtree(made.output / "checkpoints")
    assert steps_run(made.run()) == []
    assert steps_run(made.run("--set", "speculation.draft_length=2")) == ["target-convert", "target-build"]


def test_a_damaged_engine_is_built_again(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    made.run()
    (made.engines / "draft" / "rank0.engine").unlink()
    assert steps_run(made.run()) == ["draft-build"]


# --- what is refused before anything runs --------------------------------------------------------


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"kv_cache": {"dtype": "int8"}}, "kv-int8"),
        ({"kv_cache": {"dtype": "fp8"}}, "kv-fp8-needs-fp8-weights"),
        ({"kv_cache": {"reuse": False}}, "kv-reuse-off"),
        ({"target": {"quantization": "nvfp4"}}, "gpu-format-unsupported"),
        ({"target": {"tp_size": 3}}, "engine-split-impossible"),
        ({"target": {"dtype": "float32"}}, "engine-dtype-unsupported"),
        ({"tensorrt_llm": {"version": "1.1.0"}}, "image-version-differs"),
        ({"tensorrt_llm": {"calibration_dataset": "nowhere"}, "target": {"quantization": "fp8"}},
         "calibration-data-missing"),
    ],
)  # fmt: skip
def test_settings_that_would_break_the_pair_are_refused(
    tmp_path: Path, local: Machine, settings: dict[str, Any], code: str
) -> None:
    made = deployment(tmp_path, local, settings)
    assert code in refused(made.run())
    assert not made.output.exists()


@pytest.mark.parametrize("version", ["1.3.0rc22", "1.3.0", "1.4.0rc1", "2.0.0"])
def test_releases_without_engines_are_refused_in_one_sentence(
    tmp_path: Path, local: Machine, version: str
) -> None:
    error = refused(deployment(tmp_path, local, {"tensorrt_llm": {"version": version}}).run())
    line = next(line for line in error.splitlines() if line.startswith("error"))
    assert "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3" in line
    assert "runtime: llmapi" in line


def test_the_remedy_for_another_version_is_one_that_exists(tmp_path: Path, local: Machine) -> None:
    error = refused(deployment(tmp_path, local, {"tensorrt_llm": {"version": "1.3.0rc15"}}).run())
    assert "Set tensorrt_llm.execution: local where it is installed, or tensorrt_llm.version: 1.2.1" in error


def test_logits_need_equal_vocabularies_and_tokens_do_not(tmp_path: Path, local: Machine) -> None:
    padded = Recipe(hidden=256, layers=1, rows=96, config=BFLOAT16)
    made = deployment(tmp_path, local, draft=padded)
    assert "logits-vocab-differs" in refused(made.run("--set", "speculation.acceptance=logits"))
    assert made.run().returncode == 0


def test_awq_padding_is_expected_and_counts_for_logits(tmp_path: Path, local: Machine) -> None:
    models = [Recipe(hidden=256, layers=layers, rows=65, config=BFLOAT16) for layers in (3, 1)]
    settings = {"target": {"quantization": "int4_awq"}}
    made = deployment(tmp_path, local, settings, target=models[0], draft=models[1])
    done = made.run()
    assert done.returncode == 0, done.stderr
    assert "logits-vocab-differs" in refused(made.run("--set", "speculation.acceptance=logits"))


def test_awq_groups_must_survive_the_split(tmp_path: Path, local: Machine) -> None:
    narrow = Recipe(hidden=128, layers=2, config=BFLOAT16)
    settings = {"target": {"quantization": "int4_awq", "tp_size": 2}}
    made = deployment(tmp_path, local, settings, target=narrow, draft=Recipe(hidden=64, config=BFLOAT16))
    assert "engine-split-impossible" in refused(made.run())


def test_a_path_that_quantize_would_misread_is_refused(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path / "prompts", local, {"target": {"quantization": "fp8"}})
    assert "path-misread" in refused(made.run())
    assert made.run("--set", "target.quantization=int8_wo").returncode == 0


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        ([], "nvidia-smi lists no GPU"),
        ([devices.T4], "gpu-too-old"),
        ([devices.H100, devices.A100], "differ in compute capability"),
    ],
)
def test_gpus_that_cannot_build_the_pair_are_named(
    tmp_path: Path, gpus: list[dict[str, Any]], reason: str
) -> None:
    assert reason in refused(deployment(tmp_path, machine(tmp_path / "machine", gpus=gpus)).run())


def test_a_subset_of_mixed_gpus_can_be_chosen(tmp_path: Path) -> None:
    mixed = machine(tmp_path / "machine", gpus=[devices.H100, devices.A100])
    made = deployment(tmp_path, mixed)
    done = made.run(env=mixed.env | {"CUDA_VISIBLE_DEVICES": "1"})
    assert done.returncode == 0, done.stderr
    assert made.manifest("engines/target")["facts"]["gpus"][0]["compute_capability"] == "8.0"


def test_without_tensorrt_llm_and_docker_both_ways_are_named(tmp_path: Path) -> None:
    error = refused(deployment(tmp_path, machine(tmp_path / "machine", local=False)).run())
    assert "pip install" in error
    assert "docker" in error
    assert "1.2.1" in error


def test_docker_that_is_asked_for_and_not_there_is_said(tmp_path: Path, local: Machine) -> None:
    error = refused(deployment(tmp_path, local).run("--set", "tensorrt_llm.execution=docker"))
    assert "execution is docker, and the docker command is not in PATH" in error


def test_a_wrong_examples_folder_is_not_replaced_by_another(tmp_path: Path, local: Machine) -> None:
    error = refused(deployment(tmp_path, local).run("--set", f"tensorrt_llm.examples_dir={tmp_path}"))
    assert f"is not {tmp_path}" in error


def test_another_version_on_this_machine_is_not_used(tmp_path: Path) -> None:
    old = machine(tmp_path / "machine", version="1.0.0", docker=True)
    made = deployment(tmp_path, old)
    assert "docker image" in made.run("--dry-run").stdout
    assert "version 1.0.0" in refused(made.run("--set", "tensorrt_llm.execution=local"))


@pytest.mark.parametrize("damage", ["truncated", "custom-code"])
def test_checkpoint_errors_come_before_the_first_step(tmp_path: Path, local: Machine, damage: str) -> None:
    made = deployment(tmp_path, local)
    folder = tmp_path / "models" / "draft"
    if damage == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    assert "draft" in refused(made.run())
    assert not made.output.exists()


# --- what the programs wrote ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "missing-rank", "program": "trtllm-build"}, "rank1.engine is missing"),
        ({"kind": "missing-rank", "program": "convert_checkpoint.py"}, "rank1.safetensors is missing"),
        ({"kind": "cut-off", "program": "convert_checkpoint.py"}, "rank0.safetensors"),
        ({"kind": "wrong-vocab"}, "vocab_size is 192, not 64"),
        ({"kind": "no-draft-tokens"}, "speculative_decoding_mode is 1, not 2"),
    ],
)
def test_output_that_is_not_what_was_planned_is_not_published(
    tmp_path: Path, local: Machine, fault: dict[str, Any], reason: str
) -> None:
    made = deployment(tmp_path, local, {"target": {"tp_size": 2}})
    local.fault(**fault)
    assert reason in refused(made.run())
    assert not (made.engines / "target").exists()
    assert made.leftovers() == []
    local.fault(None)
    assert made.run().returncode == 0


def test_an_engine_of_another_version_is_not_published(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    (local.root / "version").write_text("1.1.0")
    assert "built by TensorRT-LLM 1.1.0, not 1.2.1" in refused(made.run())
    assert not (made.engines / "target").exists()


def test_recipes_of_this_file_fit_awq_on_two_gpus() -> None:
    assert TARGET.hidden % 256 == DRAFT.hidden % 256 == 0
