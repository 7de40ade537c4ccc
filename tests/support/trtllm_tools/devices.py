# SPDX-License-Identifier: Apache-2.0
"""The GPUs of the stand-in machine, and nvidia-smi, which lists them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

H100 = {"name": "NVIDIA H100 80GB HBM3", "memory": 81559, "capability": "9.0", "driver": "590.44.01"}
A100 = {"name": "NVIDIA A100-SXM4-80GB", "memory": 81920, "capability": "8.0", "driver": "590.44.01"}
B200 = {"name": "NVIDIA B200", "memory": 183359, "capability": "10.0", "driver": "590.44.01"}
T4 = {"name": "Tesla T4", "memory": 15360, "capability": "7.5", "driver": "590.44.01"}


def listed(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / "gpus.json").read_text(encoding="utf-8"))


def capability(root: Path) -> tuple[int, int]:
    major, minor = listed(root)[0]["capability"].split(".")
    return int(major), int(minor)


def main(root: Path) -> None:
    """nvidia-smi --query-gpu=... --format=csv,noheader,nounits"""
    query, layout = sys.argv[1:]
    assert query == "--query-gpu=name,memory.total,compute_cap,driver_version", query
    assert layout == "--format=csv,noheader,nounits", layout
    for gpu in listed(root):
        print(f"{gpu['name']}, {gpu['memory']}, {gpu['capability']}, {gpu['driver']}")
