# SPDX-License-Identifier: Apache-2.0
"""A deployment whose front model does nothing, for what client, wire and server cost."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from specbuild import config, resources

MODEL = Path(__file__).with_name("noop_model") / "ensemble"


def deployment(folder: Path) -> config.Config:
    """A configuration on free ports whose repository holds the model."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    made = config.load(resources.folder("configs") / "demo.yaml").model_dump(mode="json")
    made["output"] = str(folder)
    made["serving"].update(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
    settings = config.validate(made, source="noop")
    shutil.copytree(MODEL, settings.repository_dir / "ensemble")
    return settings
