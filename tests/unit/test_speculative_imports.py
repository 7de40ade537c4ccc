# SPDX-License-Identifier: Apache-2.0
"""What is generated for NVIDIA's image runs there with nothing installed: numpy, tokenizers, transformers."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import venv
from pathlib import Path

import pytest

from support.triton import MODEL_REPOSITORY

ROOTS = ("numpy", "tokenizers", "transformers")
PROGRAM = """
import importlib, sys, types
from pathlib import Path

import numpy, tokenizers, transformers

folder = Path(sys.argv[1])
sys.path.append(str(folder))
triton = types.ModuleType("triton_python_backend_utils")
triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
triton.InferenceResponseSender = triton.TritonError = object
sys.modules["triton_python_backend_utils"] = triton
for path in sorted(folder.glob("*.py")):
    assert importlib.import_module(path.stem).__file__ == str(path)
"""


def closure(roots: tuple[str, ...]) -> set[str]:
    """Names of ``roots`` and of the distributions that they require."""
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9_.-]", waiting.pop())[0]).lower()
        if name in seen:
            continue
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        seen.add(name)
        waiting += [line for line in required if "extra ==" not in line]
    return seen


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment that has ROOTS, what they require, and nothing else."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in closure(ROOTS):
        distribution = importlib.metadata.distribution(name)
        for top in {
            path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")
        }:
            (packages / top).symlink_to(distribution.locate_file(top))
    return folder / "bin" / "python"


def run(image: Path, model: str) -> subprocess.CompletedProcess[str]:
    command = [str(image), "-I", "-c", PROGRAM, str(MODEL_REPOSITORY / model / "1")]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("model", ["preprocessing", "postprocessing", "speculative"])
def test_the_models_files_import_what_the_image_has(image: Path, model: str) -> None:
    result = run(image, model)
    assert result.returncode == 0, result.stderr[-600:]


def test_the_image_has_nothing_of_ours(image: Path) -> None:
    assert "No module named 'specbuild'" in run(image, "torch").stderr
