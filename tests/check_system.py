# SPDX-License-Identifier: Apache-2.0
"""Checks what pip cannot install, before the virtual environment is made. Runs on any Python 3.

Prints the command that installs what is missing and exits 1. What the tests alone need is a note, since
`make demo` works without it; with --tests it is an error too.
"""

import importlib.util
import os
import shutil
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


def test_problems():
    """What only the tests need, in the same form."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        yield "there is no Chromium: `make test` looks at the report's page in it", "apt-get install chromium"


def main(argv):
    """Print every problem; the exit code."""
    found = list(problems())
    notes = list(test_problems())
    if "--tests" in argv:
        found, notes = found + notes, []
    for kind, entries in (("error", found), ("note", notes)):
        for what, remedy in entries:
            sys.stderr.write(f"{kind}: {what}\n  fix: {remedy}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
