# SPDX-License-Identifier: Apache-2.0
"""Modules of the model repository, imported as Triton's Python backend imports them: by file path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from specbuild import resources

MODEL_REPOSITORY = resources.folder("model_repository")


def model_module(model: str, name: str) -> ModuleType:
    """``model_repository/MODEL/1/NAME.py``; modules beside it can be imported by name, as in Triton."""
    folder = MODEL_REPOSITORY / model / "1"
    sys.path.append(str(folder))
    try:
        module = importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
    assert module.__file__ is not None
    assert Path(module.__file__).parent == folder, f"another module is called {name}"
    return module
