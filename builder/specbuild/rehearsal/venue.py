# SPDX-License-Identifier: Apache-2.0
"""A Triton with our own ``tensorrtllm`` backend or stub of tensorrt_llm in NVIDIA's place."""

from __future__ import annotations

import json
import shutil
import site
import venv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from specbuild.server.installation import Installation

_BACKEND = Path(__file__).with_name("backend")
_STUBS = Path(__file__).with_name("stubs")
WEIGHTS = "SPECBUILD_REHEARSAL_WEIGHTS"
THREADS = "SPECBUILD_REHEARSAL_THREADS"
PACE_MS = "SPECBUILD_REHEARSAL_PACE_MS"


def installation(base: Installation, folder: Path) -> Installation:
    """``base`` with the rehearsal's backend and packages, made anew in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    backends, packages = folder / "backends", folder / "python"
    # A copy, since Triton refuses a backend library that leads out of the backend folder.
    shutil.copytree(base.backend("python"), backends / "python")
    shutil.copytree(_BACKEND, backends / "tensorrtllm", ignore=shutil.ignore_patterns("__pycache__"))
    _environment(packages)
    return replace(base, backends=backends, programs=(packages / "bin", *base.programs))


def _environment(folder: Path) -> None:
    """A virtual environment with this one's packages and the stub of tensorrt_llm.

    Triton's Python backend takes its packages from the python3 in PATH and ignores PYTHONPATH.
    """
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "rehearsal.pth").write_text("\n".join([str(_STUBS), *lines]) + "\n", encoding="utf-8")


def variables(weights: Mapping[str, Path]) -> dict[str, str]:
    """What the stand-ins read from the environment; ``weights`` go by the model that they play."""
    return {
        WEIGHTS: json.dumps({name: str(folder.absolute()) for name, folder in weights.items()}),
        # Two engines take turns on the same cores: one that spins while it waits takes them from the other.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
