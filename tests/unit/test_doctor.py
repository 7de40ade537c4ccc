# SPDX-License-Identifier: Apache-2.0
"""What a machine has, told by real programs' output; what each runtime lacks, and the exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from specbuild import config, doctor
from specbuild.config import Config
from specbuild.doctor import Machine, Program, Verdict
from specbuild.engines.gpus import Gpu
from support.trtllm_tools import devices
from support.trtllm_tools.install import machine

HOPPER = Gpu("NVIDIA H100", 80 << 30, (9, 0), "590.44.01")
TURING = Gpu("Tesla T4", 15 << 30, (7, 5), "590.44.01")
BARE = Machine(
    python="3.12.3",
    gpus=(),
    tensorrt_llm=None,
    trtllm_build=Program(None),
    docker=Program(None),
    docker_has_nvidia=False,
    tritonserver=Program(None),
    tensorrtllm_backend=False,
    perf_analyzer=Program(None),
    torch=None,
    numpy="1.26.4",
)
IMAGE = dataclasses.replace(
    BARE,
    gpus=(HOPPER,) * 4,
    tensorrt_llm="1.2.1",
    trtllm_build=Program("/usr/local/bin/trtllm-build"),
    tritonserver=Program("/opt/tritonserver/bin/tritonserver"),
    tensorrtllm_backend=True,
    torch="2.10.0a0",
)
LAPTOP = dataclasses.replace(BARE, torch="2.13.0+cpu", tritonserver=Program("/wheel/tritonserver"))
HOST = dataclasses.replace(BARE, gpus=(HOPPER,), docker=Program("28.5.1"), docker_has_nvidia=True)


def settings(**changes: Any) -> Config:
    document = {
        "name": "pair",
        "runtime": "tensorrt_llm",
        "target": {"checkpoint": "org/target"},
        "draft": {"checkpoint": "org/draft"},
        "output": "build/pair",
    }
    return config.validate(document | changes, source="test")


def verdicts(found: Machine, chosen: Config | None = None) -> dict[str, Verdict]:
    return {verdict.runtime: verdict for verdict in doctor.judge(found, chosen)}


@pytest.mark.parametrize(
    ("found", "ready"),
    [
        (BARE, set()),
        (LAPTOP, {"torch"}),
        (HOST, {"tensorrt_llm", "llmapi"}),
        (IMAGE, {"torch", "tensorrt_llm", "llmapi"}),
        (dataclasses.replace(IMAGE, gpus=()), {"torch"}),
        (dataclasses.replace(IMAGE, gpus=(TURING,)), {"torch"}),
        (dataclasses.replace(IMAGE, trtllm_build=Program(None)), {"torch", "llmapi"}),
        (dataclasses.replace(IMAGE, tensorrtllm_backend=False), {"torch", "llmapi"}),
        (dataclasses.replace(IMAGE, tensorrt_llm="1.4.0"), {"torch", "llmapi"}),
        (dataclasses.replace(HOST, docker=Program("/bin/docker", "no daemon")), set()),
    ],
    ids=lambda value: "" if isinstance(value, Machine) else "+".join(sorted(value)) or "none",
)
def test_each_runtime_is_ready_exactly_where_it_can_work(found: Machine, ready: set[str]) -> None:
    assert {runtime for runtime, verdict in verdicts(found).items() if verdict.ready} == ready


def test_every_lack_says_how_to_get_it() -> None:
    for verdict in verdicts(BARE).values():
        assert verdict.lacks and all(lack.what and lack.how for lack in verdict.lacks)


def test_a_configuration_asks_for_its_release_and_its_gpus() -> None:
    eight = settings(target={"checkpoint": "org/target", "tp_size": 8})
    assert ["8 GPUs" in lack.what for lack in verdicts(IMAGE, eight)["tensorrt_llm"].lacks] == [True]
    newer = settings(tensorrt_llm={"version": "1.4.0"})
    (lack,) = verdicts(IMAGE, newer)["tensorrt_llm"].lacks
    assert "runtime: llmapi" in lack.how
    other = settings(runtime="llmapi", tensorrt_llm={"version": "1.4.0"})
    (lack,) = verdicts(IMAGE, other)["llmapi"].lacks
    assert "1.4.0" in lack.what
    assert verdicts(IMAGE, other)["tensorrt_llm"].ready, "another runtime's needs are not its own"


def test_a_mix_of_gpus_and_an_old_driver_are_mentioned() -> None:
    old = dataclasses.replace(HOPPER, driver="550.54.15")
    mixed = dataclasses.replace(IMAGE, gpus=(old, dataclasses.replace(old, capability=(8, 0))))
    notes = "\n".join(verdicts(mixed)["tensorrt_llm"].notes)
    assert "CUDA_VISIBLE_DEVICES" in notes and "550.54.15" in notes
    assert verdicts(IMAGE)["tensorrt_llm"].notes == ()
    without = dataclasses.replace(HOST, docker_has_nvidia=False)
    assert "Container Toolkit" in "\n".join(verdicts(without)["llmapi"].notes)


# --- looking ---------------------------------------------------------------------------------------


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "expected", "nvidia"),
    [
        ('echo \'{"version": "28.5.1", "runtimes": {"nvidia": {}, "runc": {}}}\'', Program("28.5.1"), True),
        ('echo \'{"version": "28.5.1", "runtimes": {"runc": {}}}\'', Program("28.5.1"), False),
        ("echo first >&2; echo Cannot connect >&2; exit 1", "Cannot connect", False),
        ("exit 7", "exit code 7", False),
        ("echo no json", "cannot be understood", False),
        ("echo '[]'", "cannot be understood", False),
        ("exec sleep 60", "no answer within", False),
    ],
)
def test_docker_is_asked_and_never_waited_for(
    text: str, expected: Program | str, nvidia: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_DOCKER_TIMEOUT_S", 0.5 if "sleep" in text else 10)
    program(tmp_path / "docker", text)
    found = doctor.probe(environment={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert found.docker_has_nvidia is nvidia
    if isinstance(expected, Program):
        assert found.docker == expected
    else:
        assert expected in str(found.docker.problem) and not found.docker.usable


def test_programs_are_found_where_they_are(tmp_path: Path) -> None:
    for name in ("tritonserver/bin/tritonserver", "bin/perf_analyzer", "bin/trtllm-build"):
        program(tmp_path / name, "exit 0")
    (tmp_path / "tritonserver" / "backends" / "tensorrtllm").mkdir(parents=True)
    path = f"{tmp_path}/bin:{tmp_path}/tritonserver/bin"
    found = doctor.probe(environment={"PATH": path})
    assert found.tritonserver.found == str(tmp_path / "tritonserver/bin/tritonserver")
    assert found.tensorrtllm_backend
    assert found.perf_analyzer.found and found.trtllm_build.found
    assert found.docker == Program(None)


def test_a_configured_tritonserver_that_is_none_is_a_lack(tmp_path: Path) -> None:
    chosen = settings(runtime="torch", serving={"tritonserver": str(tmp_path / "nothing")})
    found = doctor.probe(chosen, {"PATH": "/nonexistent"})
    (lack,) = [lack for lack in verdicts(found, chosen)["torch"].lacks if lack.what == "tritonserver"]
    assert "serving.tritonserver" in lack.how


# --- the command -----------------------------------------------------------------------------------


def run(env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "specbuild", "doctor", *words]
    wide = {**env, "COLUMNS": "80"}
    return subprocess.run(argv, env=wide, capture_output=True, text=True, check=False, timeout=60)


def test_the_report_fits_a_terminal_and_names_every_part() -> None:
    done = run(os.environ)
    assert done.returncode in {0, 1} and "Traceback" not in done.stderr
    for word in ("GPUs", "TensorRT-LLM", "Docker", "tritonserver", "perf_analyzer", "torch", "llmapi"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_json_says_the_same(tmp_path: Path) -> None:
    done = run(machine(tmp_path / "machine", gpus=[devices.H100]).env, "--json")
    document = json.loads(done.stdout)
    assert set(document) == {"machine", "runtimes"}
    assert document["machine"]["gpus"][0]["name"] == devices.H100["name"]
    assert document["machine"]["tensorrt_llm"] == "1.2.1"
    assert set(document["runtimes"]) == {"torch", "tensorrt_llm", "llmapi"}
    assert document["runtimes"]["llmapi"]["ready"] is (not document["runtimes"]["llmapi"]["lacks"])


@pytest.mark.parametrize(("version", "code"), [("1.2.1", 0), ("1.4.0", 1)])
def test_the_configured_runtime_decides_the_exit_code(tmp_path: Path, version: str, code: int) -> None:
    made = machine(tmp_path / "machine", gpus=[devices.H100])
    program(made.root / "bin" / "tritonserver", "exit 0")
    chosen = settings(runtime="llmapi", tensorrt_llm={"version": version})
    path = tmp_path / "pair.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    done = run(made.env, "--config", str(path))
    assert done.returncode == code, done.stdout + done.stderr


def test_a_missing_configuration_is_wrong_use() -> None:
    done = run(os.environ, "--config", "absent.yaml")
    assert done.returncode == 2 and "cannot read absent.yaml" in done.stderr
