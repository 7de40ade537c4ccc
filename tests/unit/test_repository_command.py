# SPDX-License-Identifier: Apache-2.0
"""``specbuild repository``: exit codes and what it prints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from specbuild import artifacts
from specbuild.cli import run
from specbuild.config import Config


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    document = {
        "name": "pair",
        "runtime": "torch",
        "target": {"checkpoint": "target"},
        "draft": {"checkpoint": "draft"},
        "output": str(tmp_path / "build"),
    }
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(document))
    settings = Config.model_validate(document)
    for role in ("target", "draft"):
        with artifacts.publish(settings.engines_dir / role, key=role, facts={}) as staging:
            (staging / "config.json").write_text("{}")
    return settings


def write(settings: Config) -> int:
    return run(["repository", "--config", str(settings.output.parent / "pair.yaml")])


def test_it_writes_and_names_the_folder(settings: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert write(settings) == 0
    assert capsys.readouterr().out.strip() == str(settings.repository_dir)


def test_verify_accepts_what_was_written(settings: Config, capsys: pytest.CaptureFixture[str]) -> None:
    write(settings)
    capsys.readouterr()
    assert run(["repository", "--verify", str(settings.repository_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "findings": []}


def test_verify_exits_with_1_and_lists_code_reason_and_remedy(
    settings: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    write(settings)
    shutil.rmtree(settings.repository_dir / "ensemble" / "1")
    capsys.readouterr()
    assert run(["repository", "--verify", str(settings.repository_dir)]) == 1
    shown = capsys.readouterr().out
    assert "version-missing" in shown
    assert "fix:" in shown
    assert run(["repository", "--verify", str(settings.repository_dir), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert report["findings"][0].keys() >= {"code", "subject", "reason", "remedy"}


def test_missing_engines_are_an_error_with_the_command_that_builds_them(
    settings: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(settings.engines_dir)
    assert write(settings) == 1
    assert "specbuild engines" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--config", "a.yaml", "--verify", "b"]])
def test_it_wants_either_a_configuration_or_a_folder(arguments: list[str]) -> None:
    assert run(["repository", *arguments]) == 2
