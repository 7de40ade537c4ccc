# SPDX-License-Identifier: Apache-2.0
"""Where tritonserver comes from, and what is said when something of it is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

from specbuild.errors import MissingDependencyError, ServerError
from specbuild.server import find, installation


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment without any tritonserver but the wheel's."""
    monkeypatch.setattr(installation, "_IMAGE", tmp_path / "none")
    return {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_the_configured_program_wins(tmp_path: Path, nothing: dict[str, str]) -> None:
    program(tmp_path / "tritonserver")
    mine = program(tmp_path / "mine" / "tritonserver")
    assert find(mine, nothing).executable == mine


def test_a_configured_program_must_be_one(tmp_path: Path, nothing: dict[str, str]) -> None:
    with pytest.raises(ServerError, match=r"serving\.tritonserver: .* is no program"):
        find(tmp_path, nothing)


def test_then_the_path_and_then_the_image(
    tmp_path: Path, nothing: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = program(tmp_path / "opt" / "tritonserver")
    monkeypatch.setattr(installation, "_IMAGE", image)
    assert find(None, nothing).executable == image
    on_path = program(tmp_path / "tritonserver")
    assert find(None, nothing) == installation.Installation(on_path, None, (), ())


def test_the_wheels_backend_gets_this_pythons_stub_once(nothing: dict[str, str]) -> None:
    found = find(None, nothing)
    assert found.backends is not None
    stub = found.backends / "python" / "triton_python_backend_stub"
    assert stub.stat().st_mode & 0o111
    assert (found.backends / "python" / "libtriton_python.so").is_file()
    assert not (found.backends / "python" / "libtriton_python.so").is_symlink()
    assert found.libraries[0].joinpath(f"libpython{installation._PYTHON}.so.1.0").exists()
    assert found.programs == (Path(sys.executable).parent,)
    written = stub.stat().st_mtime_ns
    assert find(None, nothing) == found
    assert stub.stat().st_mtime_ns == written
    assert [path.name for path in found.backends.parent.iterdir()] == [found.backends.name]


def test_numpy_2_is_refused_before_it_corrupts_text(
    nothing: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.4.6")
    with pytest.raises(ServerError, match=r"numpy 2\.4\.6 .* corrupts text") as error:
        find(None, nothing)
    assert error.value.remedy == "pip install 'numpy<2'"


def test_a_python_without_shared_library_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, nothing: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path) if name == "LIBDIR" else "")
    with pytest.raises(ServerError, match=r"libpython3\.\d+\.so\.1\.0 is missing") as error:
        find(None, nothing)
    assert f"apt-get install libpython{installation._PYTHON}" in error.value.remedy


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, nothing: dict[str, str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ServerError, match="cannot write") as error:
        find(None, nothing)
    assert "XDG_CACHE_HOME" in error.value.remedy


def test_without_any_tritonserver_the_remedy_is_the_extra(
    nothing: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as error:
        find(None, nothing)
    assert "specbuild[server]" in error.value.remedy
