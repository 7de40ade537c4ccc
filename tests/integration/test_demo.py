# SPDX-License-Identifier: Apache-2.0
"""The demo, as a newcomer runs it: from nothing to the report, and once more with everything built."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

DEMO = [sys.executable, "-m", "specbuild", "demo", "--max-tokens", "24", "--request-count"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def runs(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What two runs said on stderr, and the report of the second."""
    said = []
    for _ in range(2):
        done = subprocess.run(
            [*DEMO, "2"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        assert "speed-up" in done.stdout
        said.append(done.stderr)
    return said, json.loads((folder / "build/demo/report.json").read_text())


def test_the_report_has_its_figures(runs: tuple[list[str], dict[str, Any]]) -> None:
    _, report = runs
    assert report["complete"] is True
    assert report["greedy_identical"] is True
    assert report["speedup"]["p50"] > 0 and len(report["speedup"]["ci95"]) == 2
    assert report["acceptance_length"] > 1
    assert 0 < report["draft_acceptance_rate"] <= 1  # all, perhaps, of two short answers
    for arm in ("baseline", "speculative"):
        assert report[arm]["tpot_ms"]["p50"] > 0
    assert report["pair"]["synthetic"] is True


def test_a_second_run_builds_nothing(runs: tuple[list[str], dict[str, Any]]) -> None:
    first, second = runs[0]
    assert "✓ synthetic pair  written" in first and "target built, draft built" in first
    assert "✓ synthetic pair  unchanged" in second and "target unchanged, draft unchanged" in second
    assert "✓ repository  unchanged" in second


def test_nothing_is_left_running(runs: tuple[list[str], dict[str, Any]]) -> None:
    own = psutil.Process()
    assert not [child for child in own.children(recursive=True) if "triton" in child.name()]


@pytest.mark.parametrize(
    ("when", "number"), [("✓ starting Triton", signal.SIGTERM), ("… bench compare", signal.SIGINT)]
)
def test_an_interrupted_demo_takes_its_server_along(
    runs: tuple[list[str], dict[str, Any]], folder: Path, when: str, number: int
) -> None:
    """While the answer streams, and while the comparison runs: then there is a report of what it was."""
    report = folder / "build/demo/report.json"
    report.unlink(missing_ok=True)
    with subprocess.Popen([*DEMO, "1000"], cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(when):
                break
        started = psutil.Process(process.pid).children(recursive=True)
        assert "tritonserver" in {one.name() for one in started}
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert not psutil.wait_procs(started, timeout=10)[1]
    if when == "… bench compare":
        assert json.loads(report.read_text())["failure"]["type"] == "KeyboardInterrupt"
