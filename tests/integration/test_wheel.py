# SPDX-License-Identifier: Apache-2.0
"""The wheel: everything is in it, and the command line runs from it outside a checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_the_wheel_holds_both_packages_the_repository_and_the_presets(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    expected = {
        "specbuild/cli.py",
        "specbuild/py.typed",
        "specclient/protocol.py",
        "specclient/py.typed",
        "specbuild/model_repository/ensemble/config.pbtxt",
        "specbuild/model_repository/torch/1/model.py",
        "specbuild/configs/demo.yaml",
    }
    assert expected <= set(names)
    assert not [name for name in names if name.startswith("tests") or "__pycache__" in name]


def test_the_command_line_runs_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """In a new environment that holds the wheel alone; its dependencies are the ones tested here."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run(
        [venv / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True
    )
    # A folder on PYTHONPATH contributes packages, but not its .pth files: the checkout stays out.
    dependencies = next(p for p in sys.path if p.endswith("site-packages"))

    def run(*argv: str) -> str:
        done = subprocess.run(
            [venv / "bin" / argv[0], *argv[1:]],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": dependencies},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(
        "python", "-c", "import specbuild, specclient; print(specbuild.__file__, specclient.__file__)"
    )
    assert where.count(str(venv)) == 2
    assert "Commands:" in run("specbuild", "--help")
    assert "demo" in run("specbuild", "init")
    run("specbuild", "init", "demo", "--output", "pair.yaml")
    assert "runtime: torch" in run("specbuild", "config", "show", "--config", "pair.yaml")
