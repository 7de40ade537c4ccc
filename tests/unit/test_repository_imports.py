# SPDX-License-Identifier: Apache-2.0
"""What the models import must be there where they run: in the stock NVIDIA image, nothing is installed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.triton import MODEL_REPOSITORY

IMAGE = {"numpy", "tokenizers", "transformers", "triton_python_backend_utils"}
SELF_CONTAINED = ["preprocessing", "postprocessing"]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("model", SELF_CONTAINED)
def test_a_model_needs_nothing_but_what_the_image_has(model: str) -> None:
    files = sorted((MODEL_REPOSITORY / model / "1").glob("*.py"))
    beside = {path.stem for path in files}
    for path in files:
        assert set(imported(path)) <= set(sys.stdlib_module_names) | IMAGE | beside, path


@pytest.mark.parametrize("model", [*SELF_CONTAINED, "torch"])
def test_only_model_py_needs_triton(model: str) -> None:
    for path in (MODEL_REPOSITORY / model / "1").glob("*.py"):
        assert path.name == "model.py" or "triton_python_backend_utils" not in set(imported(path))


@pytest.mark.parametrize("model", [*SELF_CONTAINED, "torch"])
def test_no_module_hides_one_of_the_standard_library(model: str) -> None:
    """Triton appends the model's folder to sys.path, so that such a module would never be found."""
    names = {path.stem for path in (MODEL_REPOSITORY / model / "1").glob("*.py")}
    assert not names & set(sys.stdlib_module_names)
