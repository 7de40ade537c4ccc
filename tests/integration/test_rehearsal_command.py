# SPDX-License-Identifier: Apache-2.0
"""``specbuild rehearse``: from checkpoints alone to a proof that the repository loads and the loop works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from specbuild.rehearsal.canaries import PROMPTS, REQUESTS
from support.rehearsal import settings_for
from support.synthetic import tiny_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pair(tmp_path_factory.mktemp("pair"))


def rehearse(pair: Path, output: Path, runtime: str) -> tuple[int, dict[str, Any]]:
    document = settings_for(pair, output).model_dump(mode="json", exclude_defaults=True)
    path = output / "deployment.yaml"
    path.write_text(yaml.safe_dump(document | {"runtime": runtime}))
    command = [sys.executable, "-m", "specbuild", "rehearse", "--config", str(path), "--json"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert result.stdout, result.stderr[-2000:]
    return result.returncode, json.loads(result.stdout)


@pytest.mark.parametrize("runtime", ["tensorrt_llm", "llmapi"])
def test_a_rehearsal_needs_no_engines_and_reports_every_canary(
    pair: Path, tmp_path: Path, runtime: str
) -> None:
    code, report = rehearse(pair, tmp_path, runtime)
    assert (code, report["ok"]) == (0, True)
    assert report["written_for_rehearsal"]
    assert not report["synthetic"]
    assert len(report["canaries"]) == len(PROMPTS) * len(REQUESTS)
    assert all(canary["complaint"] is None for canary in report["canaries"])
    if runtime == "tensorrt_llm":
        compared = [canary["agrees"] for canary in report["canaries"] if canary["request"] != "sampled"]
        assert compared == [True] * len(compared)
    first = next(canary for canary in report["canaries"] if canary["request"] == "streamed")
    assert first["first_text_ms"] < first["total_ms"]
