# SPDX-License-Identifier: Apache-2.0
"""What a user imports: the names, their cost, and errors that explain themselves."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import specclient
from specclient import errors


def test_all_lists_the_public_names_and_nothing_else() -> None:
    names = {
        name
        for name, value in vars(specclient).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(names) == specclient.__all__


def test_every_error_of_the_tree_is_exported_and_drawn_in_the_docstring() -> None:
    tree = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.SpecClientError)
    ]
    assert len(tree) == 16
    for error in tree:
        assert error.__name__ in specclient.__all__
        assert error.__name__ in (errors.__doc__ or "")
        assert error("x").remedy


def test_importing_brings_no_model_library_and_stays_cheap() -> None:
    """CPU time, not wall time, so that a busy machine does not matter."""
    unwanted = {"torch", "transformers", "specbuild", "rich", "jinja2", "starlette", "uvicorn"}
    script = (
        "import time; start = time.process_time(); import specclient;"
        "cost = time.process_time() - start; import sys;"
        f"print(cost, *[m for m in {unwanted} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    cost, *modules = out.split()
    assert modules == []
    assert float(cost) < 0.5


def test_an_error_names_its_endpoint_and_request_once_known() -> None:
    error = errors.QueueFull("full")
    assert str(error) == "full"
    with pytest.raises(errors.QueueFull) as caught, errors.subject("host:1", "r7"):
        raise error
    assert str(caught.value) == "full (endpoint host:1, request r7)"
    with pytest.raises(errors.QueueFull) as caught, errors.subject("other:2", "r8"):
        raise error
    assert (caught.value.endpoint, caught.value.request_id) == ("host:1", "r7")


def test_nothing_is_measured_with_a_clock_that_can_be_set() -> None:
    """The wall clock is read once, for the record of a run."""
    reads = []
    for path in Path(specclient.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"time.time", "time.time_ns"}:
                reads.append(path.name)
            assert not (isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}), path
    assert reads == ["measure.py"]
