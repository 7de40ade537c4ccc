# SPDX-License-Identifier: Apache-2.0
"""Where a report comes from: what is needed to repeat the measurement.

The command line is in it: no option takes a secret, only names of files and variables that hold one.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from specclient.bench.document import Git, Provenance, ServerFacts

PACKAGES = ("specbuild", "grpcio", "protobuf", "tritonclient", "aiohttp", "numpy")


def provenance(created_at: float, duration_s: float, servers: Sequence[ServerFacts]) -> Provenance:
    """Of a run that began at wall time ``created_at``."""
    clock = time.get_clock_info("perf_counter")
    return {
        "created_at": datetime.fromtimestamp(created_at, timezone.utc).isoformat(timespec="seconds"),
        "duration_s": duration_s,
        "argv": list(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git": _git(Path(__file__).parent),
        "clock": f"{clock.implementation}, monotonic, resolution {clock.resolution:g} s",
        "servers": list(servers),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _git(folder: Path) -> Git | None:
    """The commit of the checkout that holds ``folder``; None where it is installed without one."""
    program = shutil.which("git")
    if program is None or "site-packages" in folder.parts:
        return None

    def ask(*argv: str) -> str | None:
        try:
            done = subprocess.run(
                [program, "-C", str(folder), *argv], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit, changes = ask("rev-parse", "HEAD"), ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)} if commit is not None else None
