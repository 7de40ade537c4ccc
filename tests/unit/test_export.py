# SPDX-License-Identifier: Apache-2.0
"""Commands for other servers: flags that upstream has, quoted so that a shell passes them on unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from specbuild import cli, config
from specbuild.config import Config
from specbuild.errors import ConfigError
from specbuild.export import SERVERS, Command, Pair, Source
from support import checkpoints
from support.checkpoints import Recipe

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
PROGRAMS = {"vllm": "vllm", "sglang": "python3", "trtllm-serve": "trtllm-serve"}

# vLLM: docs.vllm.ai/en/v0.8.5/serving/engine_args.html and its V1 successors; for speculation,
# docs/features/speculative_decoding/draft_model.md at 04329df5.
# SGLang: docs/advanced_features/server_arguments.md at 004813e1, speculative_decoding.md at 067ad4d3.
# trtllm-serve: tensorrt_llm/commands/serve.py at 4c05a748, the options of 1.1; --config came later.
KNOWN = {
    "vllm": {
        *("--host", "--port", "--revision", "--dtype", "--trust-remote-code", "--tensor-parallel-size"),
        *("--pipeline-parallel-size", "--max-model-len", "--max-num-seqs", "--kv-cache-dtype"),
        *("--no-enable-prefix-caching", "--speculative-config"),
    },
    "sglang": {
        *("--model-path", "--revision", "--host", "--port", "--dtype", "--quantization", "--tp-size"),
        *("--trust-remote-code", "--context-length", "--max-running-requests", "--max-queued-requests"),
        *("--kv-cache-dtype", "--disable-radix-cache", "--speculative-algorithm"),
        *("--speculative-draft-model-path", "--speculative-draft-model-revision"),
        *("--speculative-draft-model-quantization", "--speculative-num-steps"),
        *("--speculative-eagle-topk", "--speculative-num-draft-tokens"),
    },
    "trtllm-serve": {
        *("--tokenizer", "--host", "--port", "--max_batch_size", "--max_num_tokens", "--max_seq_len"),
        *("--tp_size", "--pp_size", "--trust_remote_code", "--extra_llm_api_options", "--config"),
    },
}
# vllm/config/speculative.py at 002e77c1.
VLLM_KEYS = {
    *("method", "model", "num_speculative_tokens", "revision", "quantization"),
    *("draft_tensor_parallel_size", "draft_sample_method", "use_heterogeneous_vocab"),
}


def settings(**sections: Any) -> Config:
    document: dict[str, Any] = {
        "name": "pair",
        "runtime": "llmapi",
        "target": {"checkpoint": "org/target"},
        "draft": {"checkpoint": "org/draft"},
        "speculation": {"draft_length": 4},
        "output": "build/pair",
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section
    return config.validate(document, source="test")


def pair_of(chosen: Config, *sizes: int | None, quantization: str | None = None) -> Pair:
    target, draft = sizes or (100, 100)
    return Pair(
        Source(chosen.target.checkpoint, chosen.target.revision, quantization, target),
        Source(chosen.draft.checkpoint, chosen.draft.revision, None, draft),
    )


def made(server: str, chosen: Config, *sizes: int | None, quantization: str | None = None) -> Command:
    return SERVERS[server](chosen, pair_of(chosen, *sizes, quantization=quantization))


def options(command: Command) -> dict[str, str]:
    words = list(command.argv)
    found = {}
    for index, word in enumerate(words):
        if word.startswith("--"):
            following = words[index + 1] if index + 1 < len(words) else "--"
            found[word] = "" if following.startswith("--") else following
    return found


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_uses_only_flags_that_the_server_has(server: str, preset: Path) -> None:
    chosen = config.load(preset)
    command = made(server, chosen)
    assert set(options(command)) <= KNOWN[server]
    assert command.argv[0] == PROGRAMS[server] and command.versions


@pytest.mark.parametrize("server", SERVERS)
def test_rare_settings_use_known_flags_too(server: str) -> None:
    chosen = settings(
        target={"revision": "v1", "dtype": "bfloat16", "trust_remote_code": True, "tp_size": 2},
        draft={"revision": "v2", "tp_size": 2},
        kv_cache={"dtype": "fp8", "reuse": False},
    )
    command = made(server, chosen, quantization="fp8")
    assert set(options(command)) <= KNOWN[server]


def test_vllm_gets_the_pair_as_a_draft_model() -> None:
    section = json.loads(options(made("vllm", settings()))["--speculative-config"])
    assert section == {"method": "draft_model", "model": "org/draft", "num_speculative_tokens": 4}
    logits = settings(speculation={"acceptance": "logits"}, draft={"revision": "v2"})
    section = json.loads(options(made("vllm", logits))["--speculative-config"])
    assert section["draft_sample_method"] == "probabilistic" and section["revision"] == "v2"
    assert set(section) <= VLLM_KEYS


def test_vllm_gets_differing_vocabularies_only_with_its_switch_for_them() -> None:
    chosen = settings(speculation={"acceptance": "logits"})
    command = made("vllm", chosen, 152064, 151936)
    section = json.loads(options(command)["--speculative-config"])
    assert section["use_heterogeneous_vocab"] is True
    assert "draft_sample_method" not in section, "it needs greedy drafts"
    assert any("152064" in warning for warning in command.warnings)


def test_sglang_drafts_a_chain_and_verifies_the_bonus_token() -> None:
    found = options(made("sglang", settings()))
    assert found["--speculative-algorithm"] == "STANDALONE"
    assert (found["--speculative-num-steps"], found["--speculative-num-draft-tokens"]) == ("4", "5")
    assert found["--speculative-eagle-topk"] == "1"


def test_sglang_does_not_take_the_draft_for_quantised_too() -> None:
    found = options(made("sglang", settings(), quantization="fp8"))
    assert found["--quantization"] == "modelopt_fp8"
    assert found["--speculative-draft-model-quantization"] == "unquant"


def test_sglang_refuses_what_would_corrupt_the_text() -> None:
    with pytest.raises(ConfigError, match="152064"):
        made("sglang", settings(), 152064, 151936)


@pytest.mark.parametrize(
    ("version", "option", "kind"),
    [
        ("1.0.0", "--extra_llm_api_options", "DraftTarget"),
        ("1.2.1", "--extra_llm_api_options", "DraftTarget"),
        ("1.4.0", "--config", "Draft_Target"),
    ],
)
def test_trtllm_serve_gets_the_file_of_its_release(version: str, option: str, kind: str) -> None:
    command = made("trtllm-serve", settings(tensorrt_llm={"version": version}))
    (name,) = command.files
    document = yaml.safe_load(command.files[name])
    assert options(command)[option] == name
    assert document["speculative_config"]["decoding_type"] == kind


def test_trtllm_serve_gets_no_setting_twice() -> None:
    command = made("trtllm-serve", settings(target={"trust_remote_code": True, "tp_size": 2}))
    (content,) = command.files.values()
    flags = {flag.removeprefix("--").replace("tp_size", "tensor_parallel_size") for flag in options(command)}
    assert not flags & set(yaml.safe_load(content))


@pytest.mark.parametrize("server", ["sglang", "trtllm-serve"])
def test_pipelines_are_refused_where_nothing_would_start(server: str) -> None:
    with pytest.raises(ConfigError, match="pipeline"):
        made(server, settings(target={"pp_size": 2}))


@pytest.mark.parametrize("server", SERVERS)
def test_what_does_not_carry_over_is_said(server: str) -> None:
    chosen = settings(target={"quantization": "int4_awq", "tp_size": 4}, kv_cache={"dtype": "int8"})
    text = "\n".join(made(server, chosen).warnings)
    assert "int4_awq" in text and "4 GPUs" in text and "int8" in text
    assert "int8" not in options(made(server, chosen)).values()


# --- the shell -------------------------------------------------------------------------------------

ODD = ["it's", 'a "b"', "$(touch hacked)", "sp ace", "ünï", "*", "a;b", "!x"]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", ODD)
def test_a_shell_passes_every_word_on_unchanged(server: str, name: str, tmp_path: Path) -> None:
    chosen = settings(target={"checkpoint": f"/models/{name}"}, draft={"checkpoint": f"/models/{name}/draft"})
    command = made(server, chosen)
    done = run_script(command, tmp_path)
    assert done == list(command.argv[1:])
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.yaml")} == dict(
        command.files
    )
    assert not (tmp_path / "hacked").exists()


def run_script(command: Command, folder: Path) -> list[str]:
    """The words that the program gets when a shell runs the exported script."""
    programs = folder / "bin"
    programs.mkdir()
    program = programs / command.argv[0]
    program.write_text(f"#!{sys.executable} -S\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    program.chmod(0o755)
    env = {
        "PATH": os.pathsep.join([str(programs), "/usr/bin", "/bin"]),
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        ["bash", "-eu", "-c", command.script()],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    words: list[str] = json.loads(done.stdout)
    return words


# --- the command -----------------------------------------------------------------------------------


def configuration(root: Path, draft_rows: int = 64, **sections: Any) -> Path:
    target, draft = checkpoints.pair(root, draft=Recipe(rows=draft_rows))
    document = {
        "name": "tiny",
        "runtime": "llmapi",
        "target": {"checkpoint": str(target)},
        "draft": {"checkpoint": str(draft)},
        "output": str(root / "build"),
    }
    for name, section in sections.items():
        document[name] |= section
    path = root / "pair.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("server", SERVERS)
def test_the_script_is_alone_on_stdout(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["export", server, "--config", str(configuration(tmp_path))]) == 0
    captured = capsys.readouterr()
    subprocess.run(["bash", "-n", "-c", captured.out], check=True)
    assert "warning" not in captured.out


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", "vllm", "--config", str(configuration(tmp_path)), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert set(document) == {"server", "versions", "argv", "files", "warnings"}
    assert captured.err == ""


def test_the_vocabularies_are_read_from_the_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(configuration(tmp_path, draft_rows=128)), "--json"]
    assert cli.run(["export", "vllm", *argv]) == 0
    assert "use_heterogeneous_vocab" in capsys.readouterr().out
    assert cli.run(["export", "sglang", *argv]) == 2
    assert "128" in capsys.readouterr().err


def test_a_checkpoint_that_specbuild_has_quantised_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configuration(tmp_path, target={"quantization": "fp8"})
    built = tmp_path / "build" / "engines" / "target"
    built.mkdir(parents=True)
    (built / "hf_quant_config.json").write_text("{}", encoding="utf-8")
    assert cli.run(["export", "vllm", "--config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["argv"][2] == str(built)


def test_an_unknown_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", "ollama", "--config", "x"]) == 2
    assert "No such command" in capsys.readouterr().err
