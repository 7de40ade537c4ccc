# SPDX-License-Identifier: Apache-2.0
"""Engine builds that are killed, starved, flooded or doubled: whole or absent, and nothing left running."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from specbuild import artifacts
from support.engines import Deployment, deployment
from support.trtllm_tools.install import Machine, machine
from support.waiting import until

FOLDERS = ("checkpoints/target", "engines/target", "checkpoints/draft", "engines/draft")


@pytest.fixture(params=["here", "image"])
def anywhere(tmp_path: Path, request: pytest.FixtureRequest) -> Machine:
    """TensorRT-LLM on this machine, and in an image."""
    return machine(tmp_path / "machine", local=request.param == "here", docker=request.param == "image")


@pytest.fixture
def local(tmp_path: Path) -> Machine:
    return machine(tmp_path / "machine")


def running(made: Deployment) -> list[str]:
    """Command lines of processes that work on this deployment."""
    root = str(made.file.parent)
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(root in word for word in words):
            found.append(" ".join(words))
    return found


def published(made: Deployment) -> list[str]:
    """The folders under final names, each of which must be whole."""
    found = [name for name in FOLDERS if (made.output / name).exists()]
    for name in found:
        assert artifacts.damage(made.output / name) == []
    return found


def rest(done: subprocess.CompletedProcess[str]) -> int:
    """How many steps a successful run still had to do."""
    assert done.returncode == 0, done.stderr
    return sum(line.startswith("✓") and " of " in line for line in done.stderr.splitlines())


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_build_killed_at_any_moment_leaves_whole_folders_and_goes_on(
    tmp_path: Path, anywhere: Machine, seed: int
) -> None:
    made = deployment(tmp_path, anywhere)
    anywhere.fault("slow", seconds=0.1, engine_bytes=32 << 10)
    child = made.start()
    moment = random.Random(seed).uniform(0, 1.8)
    until(lambda: made.output.exists() or child.poll() is not None, "the build to begin")
    with pytest.raises(subprocess.TimeoutExpired):
        child.communicate(timeout=moment)
    child.kill()
    child.communicate()
    until(lambda: running(made) == [], "the end of every process of the build")
    finished = published(made)
    anywhere.fault(None)
    done = made.run()
    assert rest(done) == len(FOLDERS) - len(finished)
    assert published(made) == list(FOLDERS)
    assert made.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_step_ends_with_its_workers(
    tmp_path: Path, anywhere: Machine, number: signal.Signals
) -> None:
    made = deployment(tmp_path, anywhere)
    pids = tmp_path / "pids"
    anywhere.fault("hang", pids=str(pids), program="trtllm-build")
    child = made.start()
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the step to hang")
    child.send_signal(number)
    output, _ = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "interrupted" in output
    until(lambda: running(made) == [], "the end of every process of the build")
    assert published(made) == ["checkpoints/target"]
    assert made.leftovers() == []


def test_a_killed_program_names_memory(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    local.fault("killed", program="convert_checkpoint.py")
    done = made.run()
    assert done.returncode == 1
    assert "was killed (signal 9)" in done.stderr
    assert "memory ran out" in done.stderr


# --- failing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "program", "remedy"),
    [
        ("out-of-memory", "trtllm-build", "limits.max_batch_size"),
        ("cuda-out-of-memory", "trtllm-build", "target.tp_size"),
        ("cuda-out-of-memory", "quantize.py", "needs no calibration"),
    ],
)
def test_out_of_memory_says_what_to_lower(
    tmp_path: Path, local: Machine, kind: str, program: str, remedy: str
) -> None:
    made = deployment(tmp_path, local, {"target": {"quantization": "fp8"}})
    local.fault(kind, program=program)
    done = made.run()
    assert done.returncode == 1
    assert remedy in done.stderr
    assert "engines/target" not in published(made)


def test_a_failed_build_goes_on_from_the_last_finished_step(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    local.fault("out-of-memory", program="trtllm-build")
    assert made.run().returncode == 1
    assert published(made) == ["checkpoints/target"]
    local.fault(None)
    assert rest(made.run()) == 3


def test_a_hundred_megabytes_of_output_end_as_a_bounded_tail(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    local.fault("flood", program="trtllm-build")
    done = made.run()
    assert done.returncode == 1
    assert "error: the last line of the flood" in done.stderr
    assert len(done.stderr) < 100_000
    assert (made.logs / "engines-target-build.log").stat().st_size > 100_000_000


def test_a_flood_does_not_stop_a_build(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    local.fault("flood-and-go-on", program="trtllm-build")
    assert made.run().returncode == 0


def test_output_that_is_no_text_is_shown_without_harm(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    local.fault("garbage", program="convert_checkpoint.py")
    done = made.run()
    assert done.returncode == 1
    assert "100% done" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\x00" not in done.stderr


def test_a_hanging_step_is_visible(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    pids = tmp_path / "pids"
    local.fault("hang", pids=str(pids), program="trtllm-build")
    child = made.start()
    until(pids.exists, "the step to hang")
    log = made.logs / "engines-target-build.log"
    assert log.read_text().startswith("$ ")
    child.terminate()
    output, _ = child.communicate(timeout=30)
    assert "target-convert (1 of 4)" in output


# --- no space ------------------------------------------------------------------------------------


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    local.fault("slow", seconds=0, engine_bytes=8 << 20)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = made.run(preexec_fn=small_files)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr.partition("the end of its log")[0]
    assert "Free space" in done.stderr
    assert published(made) == ["checkpoints/target"]
    assert made.leftovers() == []
    assert rest(made.run()) == 3


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = made.run("--set", f"output={blocker}/build")
    assert done.returncode == 1
    assert str(blocker) in done.stderr
    assert "Traceback" not in done.stderr


# --- two at once ---------------------------------------------------------------------------------


def test_a_second_build_names_the_process_of_the_first(tmp_path: Path, local: Machine) -> None:
    made = deployment(tmp_path, local)
    pids = tmp_path / "pids"
    local.fault("hang", pids=str(pids))
    first = made.start()
    until(pids.exists, "the first build to hang")
    second = made.run()
    assert second.returncode == 1
    assert f"process {first.pid}" in second.stderr
    first.terminate()
    first.communicate(timeout=30)
    local.fault(None)
    assert rest(made.run()) == 4


def test_a_step_that_still_runs_in_a_container_is_not_started_twice(tmp_path: Path) -> None:
    image = machine(tmp_path / "machine", local=False, docker=True)
    made = deployment(tmp_path, image)
    commands = made.run("--dry-run").stdout
    name = commands.split("--name ")[1].split()[0]
    (image.root / "containers" / name).write_text("1")
    done = made.run()
    assert done.returncode == 1
    assert "docker kill" in done.stderr
