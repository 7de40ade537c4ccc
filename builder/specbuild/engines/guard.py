# SPDX-License-Identifier: Apache-2.0
"""Run one program so that nothing of it outlives its caller: ``python guard.py PROGRAM ARGUMENT...``.

Builders start worker processes, which would go on computing for an hour after their caller was killed.
The guard gives the program a process group of its own; when the caller dies (even by SIGKILL) or the
guard is terminated, the whole group is terminated, and killed if it does not go. Standard library only:
the file is run by path, in isolated mode.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1
GRACE_S = 10.0
"""A container needs a moment to stop; a builder has nothing to save."""


class _Stopped(Exception):  # noqa: N818  # no error: the caller's wish
    """The guard was told to stop."""


def main(argv: list[str]) -> int:
    """Run ``argv`` and return its exit code, 128 + N when signal N ended it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    caller = os.getppid()
    _die_with_parent(signal.SIGTERM)
    if os.getppid() != caller:
        return 128 + signal.SIGTERM  # it died before the request took hold
    program: subprocess.Popen[bytes] | None = None
    try:
        program = subprocess.Popen(
            argv,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _die_with_parent(signal.SIGTERM),  # noqa: PLW1509  # there are no threads
        )
        code = program.wait()
    except _Stopped:
        code = -signal.SIGTERM
    except OSError as error:
        sys.stderr.write(f"cannot start {argv[0]}: {error.strerror}\n")
        return 127
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if program is not None:
            _end(program)
    return 128 - code if code < 0 else code


def _die_with_parent(number: int) -> None:
    """From now on the kernel sends this process signal ``number`` when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _end(program: subprocess.Popen[bytes]) -> None:
    """No process of the program's group is left; workers go even if the program itself is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise _Stopped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
