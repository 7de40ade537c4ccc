# SPDX-License-Identifier: Apache-2.0
"""What is generated for NVIDIA's image runs there with nothing installed: numpy, tokenizers, transformers."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

import pytest

from support.triton import MODEL_REPOSITORY

ROOTS = ("numpy", "tokenizers", "transformers")
PROGRAM = """
import importlib, sys, types
from pathlib import Path

folder, allowed = Path(sys.argv[1]), set(sys.argv[2].split(","))

class Gate:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        local = (folder / (top + ".py")).exists()
        if not (local or top in sys.stdlib_module_names or top in allowed):
            raise ImportError(name + " is not in the image")

sys.path.insert(0, str(folder))
sys.meta_path.insert(0, Gate())
triton = types.ModuleType("triton_python_backend_utils")
triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
sys.modules["triton_python_backend_utils"] = triton
for path in sorted(folder.glob("*.py")):
    importlib.import_module(path.stem)
"""


def closure(roots: tuple[str, ...]) -> set[str]:
    """Import names of ``roots`` and of everything that they require."""
    names = {
        name: top for top, names in importlib.metadata.packages_distributions().items() for name in names
    }
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = re.split(r"[^A-Za-z0-9_.-]", waiting.pop())[0]
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [line for line in required if "extra ==" not in line]
    return {top for name, top in names.items() if name.lower() in seen}


@pytest.mark.parametrize("model", ["preprocessing", "postprocessing", "speculative"])
def test_the_models_files_import_what_the_image_has(model: str) -> None:
    folder = MODEL_REPOSITORY / model / "1"
    command = [sys.executable, "-I", "-c", PROGRAM, str(folder), ",".join(sorted(closure(ROOTS)))]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr[-600:]


def test_the_gate_is_closed() -> None:
    folder = MODEL_REPOSITORY / "torch" / "1"
    command = [sys.executable, "-I", "-c", PROGRAM, str(folder), ",".join(sorted(closure(ROOTS)))]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "specbuild is not in the image" in result.stderr
