# SPDX-License-Identifier: Apache-2.0
"""A deployment whose front model does nothing, for what client, wire and server cost."""

from __future__ import annotations

import shutil
from pathlib import Path

from specbuild import config, resources
from support.ports import free_ports

MODEL = Path(__file__).with_name("noop_model") / "ensemble"


def deployment(folder: Path) -> config.Config:
    """A configuration on free ports whose repository holds the model."""
    made = config.load(resources.folder("configs") / "demo.yaml").model_dump(mode="json")
    made["output"] = str(folder)
    made["serving"].update(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    settings = config.validate(made, source="noop")
    shutil.copytree(MODEL, settings.repository_dir / "ensemble")
    return settings
