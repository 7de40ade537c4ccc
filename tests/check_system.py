# SPDX-License-Identifier: Apache-2.0
"""Checks what pip cannot install, before the virtual environment is made. Runs on any Python 3.

Prints the command that installs what is missing and exits 1.
"""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

VERSION = ".".join(map(str, sys.version_info[:2]))


def problems():
    """Each missing piece as (what, how to get it)."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield f"Python {VERSION} is not supported", "install Python 3.11 and run: make PYTHON=python3.11 ..."
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        yield "the tritonserver wheel runs on Linux x86-64 only", "use such a machine or container"
    if importlib.util.find_spec("ensurepip") is None:
        yield "Python has no venv module", f"apt-get install python{VERSION}-venv"
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    name = f"libpython{VERSION}.so.1.0"
    places = [folder / name, folder / (sysconfig.get_config_var("MULTIARCH") or "") / name]
    if not any(place.exists() for place in places):
        yield (
            f"{places[0]} is missing: Triton's Python backend loads it",
            f"apt-get install libpython{VERSION}  (or build Python with --enable-shared)",
        )


def main():
    """Print every problem; the exit code."""
    found = list(problems())
    for what, remedy in found:
        sys.stderr.write(f"error: {what}\n  fix: {remedy}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
