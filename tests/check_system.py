# SPDX-License-Identifier: Apache-2.0
"""Checks what pip cannot install, before the virtual environment is made. Runs on any Python 3.

Prints the command that installs what is missing and exits 1.
"""

import importlib.util
import os
import sys
import sysconfig

VERSION = "%d.%d" % sys.version_info[:2]


def problems():
    """Each missing piece as (what, how to get it)."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield (
            "Python %s is not supported" % VERSION,
            "install Python 3.11 and run: make PYTHON=python3.11 ...",
        )
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        yield ("the tritonserver wheel runs on Linux x86-64 only", "use such a machine or container")
    if importlib.util.find_spec("ensurepip") is None:
        yield ("Python has no venv module", "apt-get install python%s-venv" % VERSION)
    library = os.path.join(sysconfig.get_config_var("LIBDIR") or "", "libpython%s.so.1.0" % VERSION)
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    beside = os.path.join(os.path.dirname(library), multiarch, os.path.basename(library))
    if not (os.path.exists(library) or os.path.exists(beside)):
        yield (
            "%s is missing: Triton's Python backend loads it" % library,
            "apt-get install libpython%s  (or build Python with --enable-shared)" % VERSION,
        )


def main():
    found = list(problems())
    for what, remedy in found:
        sys.stderr.write("error: %s\n  fix: %s\n" % (what, remedy))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
