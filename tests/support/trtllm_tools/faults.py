# SPDX-License-Identifier: Apache-2.0
"""Faults on demand. ``fault.json`` in the tool chain's folder: {"step": part of a name, "kind": ...}.

A file and not the environment, because a container sees only the variables it is given.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = """\
[11/23/2026-12:00:00] [TRT] [W] Requested amount of GPU memory (24793579520 bytes) could not be allocated.
[11/23/2026-12:00:00] [TRT] [E] [virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory
Traceback (most recent call last):
AssertionError: Engine building failed, please check the error log.
"""


class Faults:
    """The fault that is asked for, if this program is meant."""

    def __init__(self, root: Path, program: str) -> None:
        try:
            wanted = json.loads((root / "fault.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            wanted = {}
        self.kind: str | None = wanted.get("kind") if wanted.get("program", program) == program else None
        self.options: dict[str, Any] = wanted

    def before_work(self) -> None:
        """Faults that strike while the program works."""
        if self.kind == "out-of-memory":
            sys.exit(OUT_OF_MEMORY)
        if self.kind == "cuda-out-of-memory":
            sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB.")
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "flood":
            _flood()
            sys.exit("error: the last line of the flood")
        if self.kind == "flood-and-go-on":
            _flood()
        if self.kind == "garbage":
            os.write(2, b"\x1b[31mred\x1b[0m \xff\xfe\x00 50%\r100% done\n")
            sys.exit(3)
        if self.kind == "hang":
            _hang(self.options)

    def pause(self) -> None:
        """Between two writes, where the program is asked to be slow."""
        if self.kind == "slow":
            time.sleep(self.options.get("seconds", 0.02))


def _flood() -> None:
    line = b"x" * 1023 + b"\n"
    for _ in range(100):
        os.write(1, line * 1024)


def _hang(options: dict[str, Any]) -> None:
    """Do nothing, with a worker process as builders have; its process ids go to a file."""
    worker = os.fork()
    if worker == 0:
        while True:
            time.sleep(3600)
    Path(options["pids"]).write_text(f"{os.getpid()} {worker}", encoding="utf-8")
    while True:
        time.sleep(3600)
