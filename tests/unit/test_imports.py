# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: specclient.protocol <- specclient <- specbuild <- specbuild.cli."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDER = ROOT / "builder" / "specbuild"
CLIENT = ROOT / "client" / "specclient"

# folder -> modules that nothing under it may import
FORBIDDEN = {
    CLIENT: {"specbuild", "torch", "transformers", "starlette", "uvicorn"},
    CLIENT / "protocol.py": {"specclient", "numpy", "tritonclient", "grpc"},
    BUILDER / "torch_runtime": {"tritonclient", "triton_python_backend_utils", "click", "specclient"},
    BUILDER / "planning": {"torch", "click", "specclient", "tritonclient"},
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def sources(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


@pytest.mark.parametrize("place", FORBIDDEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_against_the_direction(place: Path) -> None:
    assert sources(place)
    for path in sources(place):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & FORBIDDEN[place], path


def test_only_the_command_line_imports_commands_and_click() -> None:
    for path in sources(BUILDER):
        if "commands" in path.parts or path.name in {"cli.py", "__main__.py"}:
            continue
        names = set(imported(path))
        assert not {
            n for n in names if n == "click" or n.startswith(("specbuild.commands", "specbuild.cli"))
        }, path


def test_only_the_yaml_reader_parses_yaml() -> None:
    users = {str(p.relative_to(BUILDER)) for p in sources(BUILDER) if "yaml" in set(imported(p))}
    readers = {
        user
        for user in users
        if any(word in (BUILDER / user).read_text() for word in ("safe_load", "yaml.load"))
    }
    assert readers == set()


def test_no_pickle_and_no_shell_anywhere() -> None:
    for path in [*sources(BUILDER), *sources(CLIENT), *sources(ROOT / "model_repository")]:
        names = set(imported(path))
        assert not names & {"pickle", "shelve", "marshal", "dill", "cloudpickle"}, path
        assert "shell=True" not in path.read_text(encoding="utf-8"), path
