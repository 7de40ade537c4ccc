# SPDX-License-Identifier: Apache-2.0
"""A command that gets a signal once something has happened."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable


def interrupted(argv: list[str], when: Callable[[], bool], number: int) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of a command that gets signal ``number`` once ``when`` holds."""
    with subprocess.Popen(
        [sys.executable, "-m", "specbuild", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 30
        while not when():
            assert time.monotonic() < deadline and process.poll() is None
            os.sched_yield()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err
