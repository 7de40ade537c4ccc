# SPDX-License-Identifier: Apache-2.0
"""Where a step runs: on this machine, or in an image through the ``docker`` command."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from specbuild.config import Config
from specbuild.engines import contracts, releases
from specbuild.engines.plan import Step
from specbuild.engines.steps import Toolchain
from specbuild.errors import MissingDependencyError

EXAMPLES = tuple(PurePosixPath(place) for place in contracts.document("containers")["examples"])
"""Where NVIDIA's images have TensorRT-LLM's examples."""


class Launcher(Protocol):
    """Turns a step into the process to start."""

    @property
    def tools(self) -> Toolchain: ...

    @property
    def description(self) -> str:
        """Where it runs, in a few words."""

    def command(self, step: Step) -> tuple[str, ...]:
        """The argv that runs ``step``, whose output folder exists."""

    def environment(self, step: Step) -> Mapping[str, str]:
        """What the process needs on top of the caller's environment."""

    def stop(self, step: Step) -> None:
        """Nothing of an interrupted ``step`` goes on, after its process was ended."""


@dataclass(frozen=True, slots=True)
class Local:
    """The TensorRT-LLM that this Python can import."""

    tools: Toolchain
    version: str

    @property
    def description(self) -> str:
        return f"TensorRT-LLM {self.version} on this machine"

    def command(self, step: Step) -> tuple[str, ...]:
        return step.argv

    def environment(self, step: Step) -> Mapping[str, str]:
        places = [step.env.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
        if not all(places):
            return step.env
        return {**step.env, "PYTHONPATH": os.pathsep.join(filter(None, places))}

    def stop(self, step: Step) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Docker:
    """An image with TensorRT-LLM. Each step sees its inputs read-only, its output, and nothing else."""

    tools: Toolchain
    image: str
    program: str
    examples_on_host: Path | None = None

    @property
    def description(self) -> str:
        return f"docker image {self.image}"

    def command(self, step: Step) -> tuple[str, ...]:
        read_only = [root for path in step.inputs for root in _roots(path)]
        if self.examples_on_host:
            read_only.append(self.examples_on_host)
        mounts = [_mount(path, read_only=True) for path in dict.fromkeys(read_only)]
        mounts.append(_mount(step.folder, read_only=False))
        # A user id without an entry in the image's passwd has neither home nor name.
        env = {**step.env, "HOME": "/tmp", "USER": "specbuild"}  # noqa: S108  # inside the container
        if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
            env["CUDA_VISIBLE_DEVICES"] = visible
        return (
            *(self.program, "run", "--rm", "--init", "--gpus", "all"),
            *("--name", self.container(step), "--user", f"{os.getuid()}:{os.getgid()}"),
            *("--ulimit", "memlock=-1", "--ulimit", "stack=67108864"),
            *(("--network", "none") if step.offline else ()),
            *(word for mount in mounts for word in ("--mount", mount)),
            *(word for name, value in env.items() for word in ("--env", f"{name}={value}")),
            *("--workdir", "/tmp", self.image, *step.argv),  # noqa: S108  # inside the container
        )

    def environment(self, step: Step) -> Mapping[str, str]:
        return {}

    def stop(self, step: Step) -> None:
        """The client passes signals on, but a client that was killed leaves its container running."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            argv = [self.program, "kill", self.container(step)]
            subprocess.run(argv, check=False, capture_output=True, timeout=30)

    def container(self, step: Step) -> str:
        """The container's name; the same step cannot run in two containers at once."""
        return f"specbuild-{step.name}-{step.key[:12]}"


def _roots(path: Path) -> Iterable[Path]:
    """``path``, and where its links lead: a snapshot in the Hugging Face cache holds links into blobs."""
    yield path
    if path.parent.name == "snapshots":
        yield path.parent.parent / "blobs"


def _mount(path: Path, *, read_only: bool) -> str:
    """docker reads this option as a line of comma-separated values."""
    line = io.StringIO()
    fields = ["type=bind", f"source={path}", f"target={path}", *(["readonly"] if read_only else [])]
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def choose(settings: Config, *, required: bool) -> Launcher:
    """The launcher that ``tensorrt_llm.execution`` asks for.

    Raises MissingDependencyError when it is not available; unless ``required``, as to show a plan, what
    would run in a container is given even on a machine without docker.
    """
    wanted = settings.tensorrt_llm
    version = installed_version()
    matches = version is not None and releases.same(version, wanted.version)
    if wanted.execution == "local" or (wanted.execution == "auto" and matches):
        if required and not matches:
            raise _missing(settings, version)
        return _local(settings, version or wanted.version, required=required)
    program = shutil.which("docker")
    if required and program is None:
        raise _missing(settings, version)
    return _docker(settings, program or "docker")


def installed_version() -> str | None:
    """The TensorRT-LLM that this Python would import, read without importing it (which takes a minute)."""
    try:
        return importlib.metadata.version("tensorrt_llm")
    except importlib.metadata.PackageNotFoundError:
        return None


def _local(settings: Config, version: str, *, required: bool) -> Local:
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("trtllm-build", path=scripts)
    given = settings.tensorrt_llm.examples_dir
    folders = [given.expanduser().absolute()] if given else [*map(Path, EXAMPLES)]
    examples = next((folder for folder in folders if (folder / "quantization").is_dir()), None)
    if required and program is None:
        raise MissingDependencyError(
            f"TensorRT-LLM {version} is installed, but trtllm-build is neither beside {sys.executable} "
            "nor in PATH",
            remedy="Activate the environment that TensorRT-LLM is installed in, or set "
            "tensorrt_llm.execution: docker.",
        )
    if required and examples is None:
        raise MissingDependencyError(
            "TensorRT-LLM's examples folder, which has the converters, is not "
            + (f"{given} (no quantization folder in it)" if given else "on this machine"),
            remedy=f"git clone --depth 1 --branch v{version} https://github.com/NVIDIA/TensorRT-LLM, and set "
            "tensorrt_llm.examples_dir to its examples folder; or set tensorrt_llm.execution: docker.",
        )
    place = PurePosixPath(examples or folders[0])
    # In a checkout the parent also has the sources of tensorrt_llm, which must not hide the installed one.
    is_checkout = Path(place.parent, "tensorrt_llm").is_dir()
    python_path = None if is_checkout else place.parent
    return Local(Toolchain(sys.executable, program or "trtllm-build", place, python_path), version)


def _docker(settings: Config, program: str) -> Docker:
    """``examples_dir`` names a folder of this machine where there is one, and one of the image otherwise."""
    given = settings.tensorrt_llm.examples_dir
    image = settings.tensorrt_llm.image
    on_host = given.expanduser().absolute() if given is not None and given.expanduser().is_dir() else None
    usual = EXAMPLES[1] if "/tensorrt-llm/release" in image else EXAMPLES[0]
    place = PurePosixPath(on_host or given or usual)
    return Docker(Toolchain("python3", "trtllm-build", place, place.parent), image, program, on_host)


def _missing(settings: Config, version: str | None) -> MissingDependencyError:
    wanted = settings.tensorrt_llm
    here = f"{sys.executable} has {f'version {version}' if version else 'none'}"
    if wanted.execution == "docker":
        here = "tensorrt_llm.execution is docker"
    docker = (
        "the docker command is not in PATH" if shutil.which("docker") is None else "docker was not allowed"
    )
    return MissingDependencyError(
        f"TensorRT-LLM {wanted.version} is needed: {here}, and {docker}",
        remedy=f"Either run specbuild where TensorRT-LLM {wanted.version} is installed (inside "
        f"{wanted.image}, or after pip install --extra-index-url https://pypi.nvidia.com "
        f"tensorrt-llm=={wanted.version}), or install docker with the NVIDIA Container Toolkit; "
        "tensorrt_llm.execution: auto takes what is there.",
    )
