# SPDX-License-Identifier: Apache-2.0
"""A shortcut: a pair that was built from these very files and settings is not examined again.

Reading two tokenizers takes a second, comparing files by size, time and inode takes a millisecond. The
shortcut only ever says that the engines of the last build are current; whatever is missing, changed or
unknown leads to the full way, whose content keys decide.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import specbuild
from specbuild import artifacts
from specbuild.checkpoint import resolve
from specbuild.config import Config
from specbuild.engines import steps
from specbuild.engines.quantization import Capability
from specbuild.errors import CheckpointError

_NAME = ".last-build.json"
_ROLES = ("target", "draft")
_SECTIONS = {"target", "draft", "speculation", "limits", "kv_cache", "tensorrt_llm"}


def fingerprint(settings: Config, capability: Capability | None) -> str | None:
    """Equal for equal settings, GPU, checkpoint files and calibration data; None when one cannot be read."""
    try:
        folders = [resolve(model) for model in (settings.target, settings.draft)]
        listings = [[_identity(path) for path in sorted(folder.iterdir())] for folder in folders]
        data = steps.calibration_folder(settings)
        listings.append([_identity(path) for path in sorted(data.rglob("*"))] if data else [])
    except (CheckpointError, OSError):
        return None
    return artifacts.content_key(
        {
            "specbuild": specbuild.__version__,
            "settings": settings.model_dump(mode="json", include=_SECTIONS),
            "folders": [str(folder.absolute()) for folder in folders],
            "files": listings,
            "compute_capability": capability,
        }
    )


def is_known(settings: Config, mark: str | None) -> bool:
    """Whether the engines are those that ``remember`` saw under this fingerprint, still complete."""
    document = _read(settings.engines_dir / _NAME)
    keys = document.get("keys")
    if mark is None or document.get("fingerprint") != mark or not isinstance(keys, dict):
        return False
    return all(artifacts.is_current(settings.engines_dir / role, keys.get(role, "")) for role in _ROLES)


def remember(settings: Config, mark: str | None, keys: Mapping[str, str]) -> None:
    """Note that the engines with these content keys belong to the fingerprint; failing to is no error."""
    content = json.dumps({"fingerprint": mark, "keys": dict(keys)})
    with contextlib.suppress(OSError):
        artifacts.write_atomic(settings.engines_dir / _NAME, content.encode())


def _identity(path: Path) -> list[str | int]:
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns, status.st_ino]


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
