# SPDX-License-Identifier: Apache-2.0
"""Finds a tritonserver and what it needs to run Python models with this interpreter.

In order: the configured path, ``PATH``, NVIDIA's image (/opt/tritonserver), the nvidia-pytriton wheel. The
wheel holds tritonserver 2.51 with stubs for several Python versions, but not in the place where the server
looks for them; so its backend folder is copied into a cache with the stub for this Python put in.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from specbuild.config import Config
from specbuild.errors import MissingDependencyError, ServerError

_IMAGE = Path("/opt/tritonserver/bin/tritonserver")
_STUB = "triton_python_backend_stub"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Installation:
    """A tritonserver that can be run."""

    executable: Path
    backends: Path | None
    """Its backend folder; None where the server finds it by itself."""
    libraries: tuple[Path, ...]
    """Folders that go first into LD_LIBRARY_PATH."""
    programs: tuple[Path, ...]
    """Folders that go first into PATH: the Python backend takes its packages from the first python3 there."""

    def backend(self, name: str) -> Path:
        """Where the server looks for a backend; it need not be there."""
        return (self.backends or self.executable.resolve().parents[1] / "backends") / name


def find(configured: Path | None, environment: Mapping[str, str]) -> Installation:
    """The tritonserver to use. Raises ServerError and MissingDependencyError with the way to get one."""
    if configured is not None:
        if not os.access(configured, os.X_OK) or configured.is_dir():
            raise ServerError(
                f"serving.tritonserver: {configured} is no program",
                remedy="Name the tritonserver executable, or leave the key out.",
            )
        return _plain(configured)
    on_path = shutil.which("tritonserver", path=environment.get("PATH"))
    if on_path is not None:
        return _plain(Path(on_path))
    if os.access(_IMAGE, os.X_OK):
        return _plain(_IMAGE)
    wheel = importlib.util.find_spec("pytriton")
    if wheel is not None and wheel.origin is not None:
        return _wheel(Path(wheel.origin).parent, environment)
    raise MissingDependencyError(
        "there is no tritonserver: not in serving.tritonserver, PATH, /opt/tritonserver or a wheel",
        remedy="pip install 'specbuild[server]', or run in NVIDIA's Triton image.",
    )


def image() -> Installation:
    """The tritonserver of NVIDIA's image, as it is found when specbuild runs in there."""
    return _plain(_IMAGE)


def require(settings: Config, installation: Installation, environment: Mapping[str, str]) -> None:
    """Return if ``installation`` can run the deployment's engines, else raise MissingDependencyError."""
    if settings.runtime != "tensorrt_llm":
        return
    backend = installation.backend("tensorrtllm")
    if not backend.is_dir():
        raise MissingDependencyError(
            f"{installation.executable} has no backend tensorrtllm (there is no {backend})",
            remedy=f"Serve in NVIDIA's image, {settings.tensorrt_llm.image}; `specbuild rehearse` tries the "
            "repository here.",
        )
    written_in_python = (backend / "model.py").is_file()
    if not written_in_python and shutil.which("mpirun", path=environment.get("PATH")) is None:
        raise MissingDependencyError(
            "mpirun is not in PATH, and the backend's processes are started by it",
            remedy=f"Serve in NVIDIA's image, {settings.tensorrt_llm.image}, or install Open MPI.",
        )


def _plain(executable: Path) -> Installation:
    return Installation(executable, backends=None, libraries=(), programs=())


def _wheel(package: Path, environment: Mapping[str, str]) -> Installation:
    _require_numpy_1()
    library_dir = _shared_python()
    triton = package / "tritonserver"
    stub = triton / "python_backend_stubs" / _PYTHON / _STUB
    if not stub.is_file():
        raise ServerError(
            f"the nvidia-pytriton wheel has no stub for Python {_PYTHON}", remedy="Use Python 3.10 to 3.12."
        )
    return Installation(
        executable=_executable(triton / "bin" / "tritonserver"),
        backends=_backends(triton, stub, environment),
        # Another Python's libpython with the same version lacks symbols that the standard library needs.
        libraries=(library_dir, package.parent / "nvidia_pytriton.libs"),
        programs=(Path(sys.executable).parent,),
    )


def _require_numpy_1() -> None:
    version = importlib.metadata.version("numpy")
    if not version.startswith("1."):
        raise ServerError(
            f"numpy {version} is installed, but the wheel's Python backend corrupts text under numpy 2",
            remedy="pip install 'numpy<2'",
        )


def _shared_python() -> Path:
    """The folder of this Python's shared library, which the stub loads."""
    library_dir = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    name = f"libpython{_PYTHON}.so.1.0"
    for folder in (library_dir, library_dir / (sysconfig.get_config_var("MULTIARCH") or "")):
        if (folder / name).exists():
            return folder
    raise ServerError(
        f"{library_dir / name} is missing: Triton's Python backend loads it",
        remedy=f"apt-get install libpython{_PYTHON} (or build Python with --enable-shared)",
    )


def _executable(program: Path) -> Path:
    if not os.access(program, os.X_OK):
        raise ServerError(
            f"{program} may not be executed", remedy="pip install --force-reinstall nvidia-pytriton"
        )
    return program


def _backends(triton: Path, stub: Path, environment: Mapping[str, str]) -> Path:
    """A copy of the wheel's backend folder with the stub in it, made once per wheel and Python version.

    A copy, not links: Triton refuses a backend library that leads out of the backend folder.
    """
    version = importlib.metadata.version("nvidia-pytriton")
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    final = cache / "specbuild" / f"triton-{version}-python{_PYTHON}"
    if (final / "python" / _STUB).is_file():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent) as staging:
            backends = Path(staging) / "backends"
            shutil.copytree(triton / "backends", backends)
            shutil.copyfile(stub, backends / "python" / _STUB)
            (backends / "python" / _STUB).chmod(0o755)
            if not final.exists():  # another process may have been faster
                backends.rename(final)
    except OSError as error:
        if not (final / "python" / _STUB).is_file():
            raise ServerError(
                f"cannot write {final}: {error.strerror or error}",
                remedy="Set XDG_CACHE_HOME to a folder that you may write to.",
            ) from None
    return final
