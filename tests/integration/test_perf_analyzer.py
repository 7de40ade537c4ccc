# SPDX-License-Identifier: Apache-2.0
"""``bench perf-analyzer``: the real perf_analyzer against a real Triton, and what happens when one fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from specbuild import cli, server
from specbuild.server import RunningServer
from specclient.bench import saved
from support import deployment, waiting

PROGRAM = Path(sys.executable).parent / "perf_analyzer"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    assert PROGRAM.exists(), "perf_analyzer is missing: make perf-analyzer"
    settings = deployment.write(tmp_path_factory.mktemp("perf_analyzer"))
    with server.running(settings) as running:
        yield running


def bench(triton: RunningServer, output: Path, *options: str) -> int:
    url = ["bench", "perf-analyzer", "-u", triton.grpc, "--output", str(output), "--max-tokens", "12"]
    return cli.run([*url, *options])


def test_its_measurement_arrives_in_a_report_of_ours(triton: RunningServer, tmp_path: Path) -> None:
    output = tmp_path / "pa.json"
    assert bench(triton, output, "--concurrency", "1,2", "--request-count", "6") == 0
    report: Any = saved.read(output)
    assert report["kind"] == "perf-analyzer" and report["complete"]
    assert [(run["arm"], run["load"]["value"]) for run in report["runs"]] == [
        ("perf_analyzer", 1),
        ("perf_analyzer", 2),
    ]
    for run in report["runs"]:
        figures = run["figures"]
        assert run["requests"] == {"succeeded": 6, "failed": 0, "outside_window": 2, "cut_off": 0}
        assert 0 < figures["ttft_ms"]["p50"] <= figures["latency_ms"]["p50"]
        assert 1 < figures["output_tokens"]["mean"] <= 12 and figures["tokens_per_second"] > 0
        assert run["acceptance"]["draft_tokens"] > 0 and run["acceptance"]["length"] >= 1
        assert {model["model"] for model in run["server"]} == {
            "ensemble",
            "preprocessing",
            "torch",
            "postprocessing",
        }
        assert run["client"] == {"cpu_share": None, "loop_lag_ms": None, "bottleneck": False}
    assert report["provenance"]["servers"][0]["server"] == "triton"
    assert any("system's clock" in warning for warning in report["warnings"])
    # The prompts are in its own files, not in the report.
    (sent,) = {row["prompt"] for row in report["requests"] if row["run"] == 0 and row["position"] == 2}
    inputs = json.loads((tmp_path / "pa.perf_analyzer" / "1.inputs.json").read_text())
    text = inputs["data"][2]["text_input"][0]
    assert sent and text[:20] not in output.read_text()
    assert {path.suffix for path in tmp_path.glob("pa.*")} == {".json", ".html", ".csv", ".perf_analyzer"}


def test_without_drafts_and_at_a_rate(triton: RunningServer, tmp_path: Path) -> None:
    output = tmp_path / "rate.json"
    options = [
        "--request-rate",
        "20",
        "--arrival",
        "constant",
        "--request-count",
        "20",
        "--num-draft-tokens",
        "0",
    ]
    assert bench(triton, output, *options) == 0
    (run,) = saved.read(output)["runs"]
    assert run["load"] == {"kind": "rate", "value": 20.0, "arrival": "constant"}
    assert run["acceptance"]["draft_tokens"] == 0 and run["requests"]["succeeded"] == 20


def test_its_own_files_can_be_run_again_by_hand(triton: RunningServer, tmp_path: Path) -> None:
    assert bench(triton, tmp_path / "x.json", "--request-count", "2", "--warmup-request-count", "0") == 0
    folder = tmp_path / "x.perf_analyzer"
    (folder / "1.export.json").unlink()
    subprocess.run(["sh", str(folder / "1.command.sh")], check=True, capture_output=True, timeout=120)
    assert json.loads((folder / "1.export.json").read_text(errors="replace"), strict=False)["experiments"]


def test_what_it_refuses_is_told_with_its_own_words(
    triton: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bad.json"
    broken = tmp_path / "perf_analyzer"
    broken.write_text("#!/bin/sh\necho 'the machine is on fire' >&2\nexit 99\n")
    broken.chmod(0o755)
    assert bench(triton, output, "--perf-analyzer", str(broken)) == 1
    error = capsys.readouterr().err
    assert "perf_analyzer ended with 99" in error and "the machine is on fire" in error
    report = saved.read(output)
    assert not report["complete"] and report["failure"]["type"] == "PerfAnalyzerError"  # type: ignore[index]
    assert "Incomplete" in output.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--concurrency", "1", "--request-rate", "1"], 2, "closed loop"),
        (["--concurrency", "9", "--request-count", "2"], 2, "too few"),
        (["--chat"], 1, "chat template"),
        (["-m", "no-such"], 1, "no-such"),
    ],
)
def test_wrong_use_is_told(
    triton: RunningServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    assert bench(triton, tmp_path / "x.json", *options) == code
    assert message in capsys.readouterr().err


def test_a_missing_program_is_told_with_the_way_to_get_it(
    triton: RunningServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert bench(triton, tmp_path / "x.json") == 1
    assert "make perf-analyzer" in capsys.readouterr().err


@contextlib.contextmanager
def long_run(triton: RunningServer, output: Path) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """The command in a process of its own, and its perf_analyzer, which would take minutes."""
    argv = [sys.executable, "-m", "specbuild", "bench", "perf-analyzer", "-u", triton.grpc]
    argv += ["--output", str(output), "--request-count", "5000", "--max-tokens", "64"]
    process = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:

        def started() -> psutil.Process | None:
            assert process.poll() is None, process.stderr and process.stderr.read()
            children = psutil.Process(process.pid).children(recursive=True)
            return next((child for child in children if "--request-count" in child.cmdline()), None)

        yield process, waiting.until(started, "perf_analyzer to start", timeout_s=60)
    finally:
        process.kill()
        process.communicate()


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_it_and_leaves_an_incomplete_report(
    triton: RunningServer, tmp_path: Path, number: int
) -> None:
    output = tmp_path / "cut.json"
    with long_run(triton, output) as (process, program):
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == 130 and gone(program)
    report = saved.read(output)
    assert not report["complete"] and report["failure"] == {
        "type": "KeyboardInterrupt",
        "message": "interrupted",
    }


def test_a_server_that_dies_ends_it_although_perf_analyzer_would_wait(tmp_path: Path) -> None:
    output = tmp_path / "died.json"
    inputs = tmp_path / "died.perf_analyzer" / "1.inputs.json"
    with (
        server.running(deployment.write(tmp_path / "deployment")) as triton,
        long_run(triton, output) as (process, program),
    ):
        waiting.until(inputs.exists, "its input")
        port = triton.grpc.rpartition(":")[2]
        (victim,) = (
            child
            for child in psutil.Process().children(recursive=True)
            if child.name() == "tritonserver" and port in " ".join(child.cmdline())
        )
        victim.kill()
        assert process.wait(timeout=60) == 1 and gone(program)
    report = saved.read(output)
    assert not report["complete"] and report["failure"] is not None
    assert report["failure"]["type"] in {"ConnectError", "PerfAnalyzerError"}
