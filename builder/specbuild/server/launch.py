# SPDX-License-Identifier: Apache-2.0
"""The command line and the environment of tritonserver; pure."""

from __future__ import annotations

import os
from collections.abc import Mapping

from specbuild.config import Config
from specbuild.server.installation import Installation

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


def argv(settings: Config, installation: Installation, *, shm_prefix: str = "specbuild") -> list[str]:
    """The command that serves the deployment's repository.

    ``shm_prefix`` must be unique on the host: servers that share one hang each other.
    """
    serving = settings.serving
    options = {
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
    flags = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    return [str(installation.executable), *flags]


def environment(installation: Installation, inherited: Mapping[str, str]) -> dict[str, str]:
    """``inherited`` with what the server and its Python models need."""
    paths = {
        "PATH": [*map(str, installation.programs), inherited.get("PATH", os.defpath)],
        "LD_LIBRARY_PATH": [*map(str, installation.libraries), inherited.get("LD_LIBRARY_PATH", "")],
    }
    joined = {name: os.pathsep.join(filter(None, parts)) for name, parts in paths.items()}
    return {**inherited, **_ENVIRONMENT, **{name: value for name, value in joined.items() if value}}
