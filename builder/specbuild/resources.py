# SPDX-License-Identifier: Apache-2.0
"""Finds the data folders that ship with specbuild."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def folder(name: Literal["model_repository", "configs"]) -> Path:
    """The folder ``name``: a checkout's own when this is one, else the copy inside the installed package."""
    checkout = _PACKAGE.parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    return _PACKAGE / name
