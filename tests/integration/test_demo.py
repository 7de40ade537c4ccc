# SPDX-License-Identifier: Apache-2.0
"""The demo, as a newcomer runs it: from nothing to the report, and once more with everything built."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psutil
import pytest


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, Any]]:
    """What two runs said on stderr, and the report of the second."""
    folder = tmp_path_factory.mktemp("demo")
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "specbuild", "demo", "--request-count", "2", "--max-tokens", "24"],
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
