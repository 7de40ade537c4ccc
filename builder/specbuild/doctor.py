# SPDX-License-Identifier: Apache-2.0
"""What this machine has, and what each runtime still lacks.

``probe`` looks (programs, package metadata, files; nothing heavy is imported), ``judge`` concludes.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from specbuild import server
from specbuild.config import Config, Runtime
from specbuild.engines import contracts, gpus, releases
from specbuild.engines.gpus import Gpu
from specbuild.engines.launch import installed_version
from specbuild.engines.quantization import MIN_CAPABILITY
from specbuild.errors import SpecbuildError

_DOCKER_FORMAT = '{"version": {{json .ServerVersion}}, "runtimes": {{json .Runtimes}}}'
_DOCKER_TIMEOUT_S = 10
_TOOLKIT = "install docker with the NVIDIA Container Toolkit"


@dataclass(frozen=True, slots=True)
class Program:
    """A program or service: where it is or what it is, or why there is none."""

    found: str | None
    problem: str | None = None
    """Set when it is there and cannot be used, or when something about it is missing."""

    @property
    def usable(self) -> bool:
        return self.found is not None and self.problem is None


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that a runtime may need."""

    python: str
    gpus: tuple[Gpu, ...]
    tensorrt_llm: str | None
    """Version that this Python would import."""
    trtllm_build: Program
    docker: Program
    """``found`` is the version of a daemon that answers, else the program."""
    docker_has_nvidia: bool
    """Whether docker lists NVIDIA's runtime; one that uses CDI need not."""
    tritonserver: Program
    tensorrtllm_backend: bool
    """Whether that tritonserver can run TensorRT engines."""
    perf_analyzer: Program
    torch: str | None
    numpy: str | None


@dataclass(frozen=True, slots=True)
class Lack:
    """Something missing, and how to get it."""

    what: str
    how: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a runtime can be used here."""

    runtime: Runtime
    lacks: tuple[Lack, ...]
    notes: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return not self.lacks


def probe(settings: Config | None = None, environment: Mapping[str, str] = os.environ) -> Machine:
    """What is on this machine; takes a few seconds at most, whatever hangs."""
    triton, backend = _tritonserver(settings, environment)
    docker, has_nvidia = _docker(environment)
    scripts = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return Machine(
        python=platform.python_version(),
        gpus=gpus.detect(),
        tensorrt_llm=installed_version(),
        trtllm_build=_program("trtllm-build", scripts),
        docker=docker,
        docker_has_nvidia=has_nvidia,
        tritonserver=triton,
        tensorrtllm_backend=backend,
        perf_analyzer=_program("perf_analyzer", scripts),
        torch=_package("torch"),
        numpy=_package("numpy"),
    )


def judge(machine: Machine, settings: Config | None = None) -> tuple[Verdict, ...]:
    """A verdict for every runtime; with ``settings``, for what they ask of theirs."""
    return tuple(
        Verdict(
            runtime,
            tuple(lacks(machine, _of(settings, runtime))),
            tuple(_notes(machine, _of(settings, runtime))) if runtime != "torch" else (),
        )
        for runtime, lacks in _LACKS.items()
    )


def _of(settings: Config | None, runtime: Runtime) -> Config | None:
    return settings if settings is not None and settings.runtime == runtime else None


def _program(name: str, path: str) -> Program:
    return Program(shutil.which(name, path=path))


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _docker(environment: Mapping[str, str]) -> tuple[Program, bool]:
    program = shutil.which("docker", path=environment.get("PATH"))
    if program is None:
        return Program(None), False
    argv = [program, "info", "--format", _DOCKER_FORMAT]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_DOCKER_TIMEOUT_S, check=True)
        facts = json.loads(done.stdout)
        return Program(str(facts["version"])), "nvidia" in (facts["runtimes"] or {})
    except subprocess.TimeoutExpired:
        problem = f"the daemon gave no answer within {_DOCKER_TIMEOUT_S} s"
    except subprocess.CalledProcessError as error:
        problem = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1][:200]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"its answer cannot be understood: {error}"
    return Program(program, problem), False


def _tritonserver(settings: Config | None, environment: Mapping[str, str]) -> tuple[Program, bool]:
    """The server that `specbuild serve` would start, and whether it has the tensorrtllm backend."""
    try:
        found = server.find(settings.serving.tritonserver if settings else None, environment)
    except SpecbuildError as error:
        return Program(None, f"{error.message}. {error.remedy}"), False
    backends = found.backends or found.executable.parent.parent / "backends"
    return Program(str(found.executable)), (backends / "tensorrtllm").is_dir()


def _gpu_lacks(machine: Machine, settings: Config | None) -> Iterator[Lack]:
    if not machine.gpus:
        yield Lack(
            "an NVIDIA GPU that nvidia-smi lists",
            "Install NVIDIA's driver, or run on a machine with a GPU; runtime torch needs none.",
        )
        return
    if max(gpu.capability for gpu in machine.gpus) < MIN_CAPABILITY:
        yield Lack(
            "a GPU of compute capability 8.0 or newer", "Take an Ampere, Ada, Hopper or Blackwell GPU."
        )
    if settings is not None:
        target = settings.target.tp_size * settings.target.pp_size
        if target > len(machine.gpus):
            yield Lack(
                f"{target} GPUs for the target (there are {len(machine.gpus)})",
                "Lower target.tp_size, or use a machine with as many GPUs.",
            )


def _torch(machine: Machine, _settings: Config | None) -> Iterator[Lack]:
    if machine.torch is None:
        yield Lack("PyTorch", "pip install 'specbuild[torch]'")
    if machine.tritonserver.found is None:
        yield Lack("tritonserver", machine.tritonserver.problem or "pip install 'specbuild[server]'")


def _tensorrt_llm(machine: Machine, settings: Config | None) -> Iterator[Lack]:
    wanted = _version(settings)
    refusal = releases.refusal(wanted)
    if refusal is not None:
        yield Lack("a TensorRT-LLM that builds engines", refusal)
        return
    yield from _gpu_lacks(machine, settings)
    here = _has(machine, wanted) and machine.trtllm_build.usable
    if not here and not machine.docker.usable:
        yield _neither(machine, settings, f"TensorRT-LLM {wanted} with trtllm-build")
    if not machine.tensorrtllm_backend and not machine.docker.usable:
        yield Lack("a tritonserver with the tensorrtllm backend", f"Serve inside {_image(settings)}.")


def _llmapi(machine: Machine, settings: Config | None) -> Iterator[Lack]:
    wanted = _version(settings)
    yield from _gpu_lacks(machine, settings)
    here = _has(machine, wanted) if settings else machine.tensorrt_llm is not None
    if not here and not machine.docker.usable:
        yield _neither(machine, settings, f"TensorRT-LLM {wanted}")
    if machine.tritonserver.found is None and not machine.docker.usable:
        yield Lack("tritonserver", f"Serve inside {_image(settings)}.")


_LACKS: Mapping[Runtime, Callable[[Machine, Config | None], Iterator[Lack]]] = {
    "torch": _torch,
    "tensorrt_llm": _tensorrt_llm,
    "llmapi": _llmapi,
}


def _version(settings: Config | None) -> str:
    return settings.tensorrt_llm.version if settings else releases.RECOMMENDED


def _image(settings: Config | None) -> str:
    return settings.tensorrt_llm.image if settings else releases.image_with(releases.RECOMMENDED)


def _has(machine: Machine, version: str) -> bool:
    return machine.tensorrt_llm is not None and releases.same(machine.tensorrt_llm, version)


def _neither(machine: Machine, settings: Config | None, what: str) -> Lack:
    """Neither TensorRT-LLM nor docker: both ways to get there."""
    docker = machine.docker
    second = "mend docker (see above)" if docker.found else _TOOLKIT
    return Lack(f"{what}, or docker", f"Run inside {_image(settings)}, or {second}.")


def _notes(machine: Machine, settings: Config | None) -> Iterator[str]:
    if len({gpu.capability for gpu in machine.gpus}) > 1:
        yield "The GPUs differ in compute capability: choose some with CUDA_VISIBLE_DEVICES."
    if machine.docker.usable and not machine.docker_has_nvidia:
        yield "docker lists no NVIDIA runtime: without CDI, install the NVIDIA Container Toolkit."
    needed = _driver_of(_image(settings))
    oldest = min((_numbers(gpu.driver) for gpu in machine.gpus), default=None)
    if needed and oldest and oldest < _numbers(needed):
        yield (
            f"{_image(settings)} was released with driver {needed}, here is {machine.gpus[0].driver}: "
            "data-centre GPUs run it in forward compatibility, others need the newer driver."
        )


def _driver_of(image: str) -> str | None:
    rows = contracts.document("containers")["rows"]
    return next((str(row["driver"]) for row in rows if row["image"] == image), None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
