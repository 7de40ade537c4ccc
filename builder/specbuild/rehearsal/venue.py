# SPDX-License-Identifier: Apache-2.0
"""A Triton with our own ``tensorrtllm`` backend or stub of tensorrt_llm in NVIDIA's place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from specbuild.server.installation import Installation

_BACKEND = Path(__file__).with_name("backend")
_STUBS = Path(__file__).with_name("stubs")
WEIGHTS = "SPECBUILD_REHEARSAL_WEIGHTS"
THREADS = "SPECBUILD_REHEARSAL_THREADS"


def installation(base: Installation, folder: Path) -> Installation:
    """``base`` with the rehearsal's backend; its backend folder is made anew in ``folder``.

    A copy, since Triton refuses a backend library that leads out of the backend folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base.backend("python"), folder / "python")
    shutil.copytree(_BACKEND, folder / "tensorrtllm", ignore=shutil.ignore_patterns("__pycache__"))
    return replace(base, backends=folder)


def variables(weights: Mapping[str, Path], inherited: Mapping[str, str]) -> dict[str, str]:
    """What the stand-ins read from the environment; ``weights`` go by the model that they play."""
    paths = [str(_STUBS), inherited.get("PYTHONPATH", "")]
    return {
        WEIGHTS: json.dumps({name: str(folder.absolute()) for name, folder in weights.items()}),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # Two engines take turns on the same cores: one that spins while it waits takes them from the other.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
