# SPDX-License-Identifier: Apache-2.0
"""The command line and the environment of tritonserver; pure."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from specbuild.config import Config
from specbuild.engines.plan import shell_line
from specbuild.errors import MissingDependencyError
from specbuild.repository.placement import place
from specbuild.server import mpi
from specbuild.server.installation import Installation, find, image, require

STOP_GRACE_S = 10
"""How long running requests may take to finish when the server is told to stop."""
KILL_GRACE_S = STOP_GRACE_S + 5
"""After this the server is killed: unloading itself takes a few seconds."""

_ENVIRONMENT = {
    # The stubs of pre- and postprocessing must not take cores from the model; PyTorch has its own settings.
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Everything is read from the engines; nothing may be fetched while serving.
    "HF_HUB_OFFLINE": "1",
}


def argv(
    settings: Config, installation: Installation, *, shm_prefix: str = "specbuild", gpu_count: int = 0
) -> list[str]:
    """The command that serves the deployment's repository.

    ``shm_prefix`` must be unique on the host: servers that share one hang each other. ``gpu_count`` is the
    number of GPUs here, as far as it is known. Raises ConfigError when the engines cannot be placed.
    """
    if not runs_engines(settings, installation):
        return _server(settings, installation, shm_prefix)
    rank = functools.partial(_rank, settings, installation, shm_prefix)
    return mpi.command(place(settings), rank, gpu_count=gpu_count)


def mode_variables(settings: Config, installation: Installation) -> dict[str, str]:
    """What the command needs in its environment besides ``environment``."""
    if not runs_engines(settings, installation):
        return {}
    return mpi.variables(place(settings))


def runs_engines(settings: Config, installation: Installation) -> bool:
    """Whether NVIDIA's backend runs the engines, in processes of their own.

    A backend of that name that is written in Python, as for a rehearsal, runs in the server's.
    """
    rehearsed = (installation.backend("tensorrtllm") / "model.py").is_file()
    return settings.runtime == "tensorrt_llm" and not rehearsed


def _rank(
    settings: Config, installation: Installation, shm_prefix: str, rank: int, more: mpi.Options
) -> list[str]:
    return _server(settings, installation, f"{shm_prefix}{rank}-", more)


def _server(
    settings: Config, installation: Installation, shm_prefix: str, more: mpi.Options | None = None
) -> list[str]:
    """The command of one server process; ``more`` are options on top, or instead."""
    serving = settings.serving
    options: dict[str, object] = {
        "model-repository": settings.repository_dir.absolute(),
        "model-control-mode": "none",  # loading models at run time is running code at run time
        "exit-on-error": "true",
        "strict-readiness": "true",
        "disable-auto-complete-config": None,
        "http-address": serving.host,
        "http-port": serving.http_port,
        "grpc-address": serving.host,
        "grpc-port": serving.grpc_port,
        "metrics-address": serving.host,
        "metrics-port": serving.metrics_port,
        "exit-timeout-secs": STOP_GRACE_S,
        "log-format": "ISO8601",
        "backend-config": f"python,shm-region-prefix-name={shm_prefix}",
    }
    if installation.backends is not None:
        options["backend-directory"] = installation.backends
    return [str(installation.executable), *mpi.flags({**options, **(more or {})})]


def preview(settings: Config, inherited: Mapping[str, str], *, gpu_count: int) -> str:
    """The command with its variables as a shell line; for NVIDIA's image where nothing here can run it."""
    lines = []
    try:
        installation = find(settings.serving.tritonserver, inherited)
        require(settings, installation, inherited)
    except MissingDependencyError:
        if settings.runtime == "torch":
            raise
        installation = image()
        lines.append(f"# in {settings.tensorrt_llm.image}")
    command = argv(settings, installation, gpu_count=gpu_count)
    return "\n".join([*lines, shell_line(command, mode_variables(settings, installation))])


def environment(installation: Installation, inherited: Mapping[str, str]) -> dict[str, str]:
    """``inherited`` with what the server and its Python models need."""
    paths = {
        "PATH": [*map(str, installation.programs), inherited.get("PATH", os.defpath)],
        "LD_LIBRARY_PATH": [*map(str, installation.libraries), inherited.get("LD_LIBRARY_PATH", "")],
    }
    joined = {name: os.pathsep.join(filter(None, parts)) for name, parts in paths.items()}
    return {**inherited, **_ENVIRONMENT, **{name: value for name, value in joined.items() if value}}
