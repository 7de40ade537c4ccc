# SPDX-License-Identifier: Apache-2.0
"""Run one step: a guarded child process, its whole output in a log file, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rich.text import Text

from specbuild import progress
from specbuild.engines import failures, guard
from specbuild.engines.launch import Launcher
from specbuild.engines.plan import Step, shell_line
from specbuild.errors import BuildError
from specbuild.progress import Report

Tick = Callable[[float, float], None]
"""Called about once a second with the seconds since the start and since the last output."""
_TICK_S = 1.0
_HEARTBEAT_S = 60.0
_QUIET_S = 60.0
"""Silence that is worth mentioning; a TensorRT build is quiet for minutes at times."""


def run(step: Step, launcher: Launcher, log: Path, tick: Tick) -> None:
    """``step`` has ended with exit code 0; everything it printed is in ``log``.

    Output goes straight to the file, so that no amount of it can block the program. Raises BuildError with
    the end of the log. On Ctrl-C, and if this process is killed, the step's processes are ended.
    """
    argv, env = launcher.command(step), launcher.environment(step)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            file.write(f"$ {shell_line(argv, env)}\n".encode())
            file.flush()
            code = _supervise(argv, step, launcher, log=file, tick=tick)
    except OSError as error:
        raise BuildError(
            f"cannot run {step.name}: {error.strerror or error} ({error.filename or log})",
            remedy="Check that the output folder is writable and its disk not full.",
        ) from error
    if code != 0:
        raise failures.explain(step, code, log)


def ticker(title: str, report: Report) -> Tick:
    """Elapsed time on the status line; elsewhere a plain line every minute."""
    printed = 0.0

    def tick(elapsed: float, quiet: float) -> None:
        nonlocal printed
        silence = f", no output for {quiet:.0f} s" if quiet >= _QUIET_S else ""
        report(f"{title}, {elapsed:.0f} s{silence}")
        if not progress.console.is_terminal and elapsed - printed >= _HEARTBEAT_S:
            printed = elapsed
            progress.console.print(Text(f"… {title}, {elapsed:.0f} s{silence}"), soft_wrap=True)

    return tick


def _supervise(argv: tuple[str, ...], step: Step, launcher: Launcher, *, log: BinaryIO, tick: Tick) -> int:
    start = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-I", guard.__file__, *argv],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **launcher.environment(step)},
        start_new_session=True,  # Ctrl-C reaches only specbuild, which then ends the step in order
    )
    try:
        while True:
            try:
                return child.wait(_TICK_S)
            except subprocess.TimeoutExpired:
                quiet = max(0.0, time.time() - os.fstat(log.fileno()).st_mtime)
                tick(time.monotonic() - start, quiet)
    finally:
        if child.poll() is None:
            _end(child)
            launcher.stop(step)


def _end(child: subprocess.Popen[bytes]) -> None:
    """The guard ends the step's process group, and itself; it needs no more than its grace."""
    child.terminate()
    try:
        child.wait(guard.GRACE_S + 5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
