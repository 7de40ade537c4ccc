# SPDX-License-Identifier: Apache-2.0
"""A pair, its configuration, and ``specbuild`` run on a stand-in machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support import checkpoints
from support.checkpoints import Recipe
from support.trtllm_tools.install import IMAGE, Machine

BFLOAT16 = {"torch_dtype": "bfloat16"}
# Widths that AWQ's groups of 128 divide, also on two GPUs.
TARGET = Recipe(hidden=256, layers=3, config=BFLOAT16)
DRAFT = Recipe(hidden=256, layers=1, config=BFLOAT16)


@dataclass(frozen=True)
class Deployment:
    """A configuration file on a machine."""

    machine: Machine
    file: Path
    output: Path

    @property
    def engines(self) -> Path:
        return self.output / "engines"

    @property
    def logs(self) -> Path:
        return self.output / "logs"

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "specbuild", "engines", "--config", str(self.file), *words]

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """``specbuild engines`` to its end."""
        settings = {"env": self.machine.env, "cwd": self.file.parent, "timeout": 120} | options
        return subprocess.run(self.argv(*words), capture_output=True, text=True, check=False, **settings)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """``specbuild engines`` running."""
        return subprocess.Popen(
            self.argv(*words),
            env=self.machine.env,
            cwd=self.file.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def manifest(self, folder: str) -> dict[str, Any]:
        return json.loads((self.output / folder / "manifest.json").read_text(encoding="utf-8"))

    def leftovers(self) -> list[Path]:
        """Staging folders: what an unclean end leaves beside the final names."""
        return list(self.output.rglob("*.staging"))


def deployment(
    root: Path,
    machine: Machine,
    settings: Mapping[str, Any] | None = None,
    *,
    target: Recipe = TARGET,
    draft: Recipe = DRAFT,
) -> Deployment:
    """A tiny pair in ``root`` and a configuration that ``settings`` (section -> keys) change."""
    folders = checkpoints.pair(root / "models", target, draft)
    document: dict[str, Any] = {
        "name": "tiny",
        "runtime": "tensorrt_llm",
        "target": {"checkpoint": str(folders[0])},
        "draft": {"checkpoint": str(folders[1])},
        "limits": {"max_batch_size": 4, "max_input_len": 128, "max_seq_len": 200},
        "tensorrt_llm": {"image": IMAGE},
        "output": str(root / "build"),
    }
    if machine.local:
        document["tensorrt_llm"]["examples_dir"] = str(machine.root / "examples")
    for section, keys in (settings or {}).items():
        document[section] = document.get(section, {}) | keys
    file = root / "pair.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return Deployment(machine, file, root / "build")
