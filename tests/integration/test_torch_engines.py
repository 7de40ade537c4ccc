# SPDX-License-Identifier: Apache-2.0
"""``specbuild engines`` for the torch runtime: validated, cast, hashed, whole, and reused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from specbuild import artifacts, cli
from support import checkpoints
from support.checkpoints import Recipe


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def configured(root: Path, target: Recipe | None = None, draft: Recipe | None = None) -> list[str]:
    """Writes a pair and its configuration; the command line up to ``--config``."""
    paths = checkpoints.pair(root / "pair", target, draft)
    (root / "pair.yaml").write_text(
        f"name: t\nruntime: torch\ntarget: {{checkpoint: {paths[0]}, dtype: bfloat16}}\n"
        f"draft: {{checkpoint: {paths[1]}}}\noutput: {root / 'out'}\n"
        "limits: {max_input_len: 64, max_seq_len: 128}\n"
    )
    return ["engines", "--config", str(root / "pair.yaml")]


def dtypes(folder: Path) -> set[str]:
    found = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return found


def test_both_models_are_cast_and_hashed(tmp_path: Path) -> None:
    command = configured(tmp_path, target=Recipe(hidden=32, layers=3, shards=2))
    assert cli.run(command) == 0
    target, draft = tmp_path / "out/engines/target", tmp_path / "out/engines/draft"
    assert dtypes(target) == {"BF16"}
    assert dtypes(draft) == {"F32"}, "auto keeps the checkpoint's own type"
    assert json.loads((target / "config.json").read_text())["torch_dtype"] == "bfloat16"
    index = json.loads((target / "model.safetensors.index.json").read_text())
    stored = sum(p.stat().st_size for p in target.glob("*.safetensors"))
    assert index["metadata"]["total_size"] <= stored < 2 * index["metadata"]["total_size"] + 20_000
    for folder in (target, draft):
        manifest = artifacts.read_manifest(folder)
        assert manifest is not None and artifacts.damage(folder) == []
        assert {"config.json", "tokenizer.json", "generation_config.json"} <= set(manifest.files)


def test_an_unchanged_engine_is_not_written_again_and_a_changed_one_alone_is(tmp_path: Path) -> None:
    command = configured(tmp_path)
    assert cli.run(command) == 0

    def inodes() -> dict[str, int]:
        return {
            role: (tmp_path / "out/engines" / role / "config.json").stat().st_ino
            for role in ("target", "draft")
        }

    first = inodes()
    assert cli.run(command) == 0
    assert inodes() == first
    assert cli.run([*command, "--set", "draft.dtype=float16"]) == 0
    assert inodes()["target"] == first["target"] and inodes()["draft"] != first["draft"]
    (tmp_path / "out/engines/target/model.safetensors").write_bytes(b"cut")
    assert cli.run([*command, "--set", "draft.dtype=float16"]) == 0
    assert artifacts.damage(tmp_path / "out/engines/target") == []


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (1e6, "float16")])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, dtype: str
) -> None:
    def spoil(tensors: dict[str, checkpoints.Array]) -> None:
        tensors["model.norm.weight"][0] = value

    command = configured(tmp_path, target=Recipe(hidden=32, layers=3, tensors=spoil))
    assert cli.run([*command, "--set", f"target.dtype={dtype}"]) == 1
    assert "model.norm.weight" in capsys.readouterr().err
    assert not (tmp_path / "out/engines/target").exists()


def test_a_pair_that_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = configured(tmp_path, draft=Recipe(swap=(10, 11)))
    assert cli.run(command) == 1
    assert "specbuild check" in capsys.readouterr().err
    assert not (tmp_path / "out/engines").exists()


def test_a_build_killed_while_writing_leaves_nothing_and_the_next_run_completes(tmp_path: Path) -> None:
    command = configured(tmp_path)
    script = (
        "import os, signal, sys, safetensors.torch as s; from specbuild import cli\n"
        "save = s.save_file\n"
        "def dying(*a, **k):\n    save(*a, **k); os.kill(os.getpid(), signal.SIGKILL)\n"
        "s.save_file = dying\ncli.run(sys.argv[1:])"
    )
    child = subprocess.run([sys.executable, "-c", script, *command], check=False, env=dict(os.environ))
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/engines/target").exists()
    assert cli.run(command) == 0
    assert {p.name for p in (tmp_path / "out/engines").iterdir() if not p.name.endswith(".lock")} == {
        "target",
        "draft",
    }
