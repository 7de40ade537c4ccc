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

from specbuild import repository
from specbuild.checkpoint import Checkpoint
from specbuild.config import Config
from specbuild.errors import ConfigError
from specbuild.rehearsal import performance, stand_in, weights
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


def test_a_pair_too_large_for_a_cpu_is_played_by_a_synthetic_one(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MAX_PARAMETERS", 0)
    result = performance.rehearse(settings_for(pair, tmp_path), lambda _: None)
    assert (result.ok, result.synthetic) == (True, True)
    # The planted draft is wrong for a fifth of the tokens.
    assert 0 < sum(one.accepted for one in result.canaries) < sum(one.drafted for one in result.canaries)


def test_a_repository_whose_loop_is_wrong_is_served_as_it_is_and_found_out(
    pair: Path, tmp_path: Path
) -> None:
    settings = settings_for(pair, tmp_path)
    folders = {"target": settings.target.checkpoint, "draft": settings.draft.checkpoint}
    stand_in.write(settings, {role: Checkpoint.open(Path(folder)) for role, folder in folders.items()})  # type: ignore[misc]
    repository.write(settings)
    with (settings.repository_dir / "speculative" / "1" / "rounds.py").open("a") as rounds:
        rounds.write("\n\nText._until_end = lambda self, answer: ([token ^ 1 for token in answer], False)\n")
    code, report = rehearse(pair, tmp_path, "tensorrt_llm")
    assert (code, report["ok"], report["written_for_rehearsal"]) == (1, False, False)
    assert any(canary["agrees"] is False for canary in report["canaries"])


def test_the_torch_runtime_needs_no_rehearsal(pair: Path, tmp_path: Path) -> None:
    settings: Config = settings_for(pair, tmp_path).model_copy(update={"runtime": "torch"})
    with pytest.raises(ConfigError, match="needs no stand-in"):
        performance.rehearse(settings, lambda _: None)
