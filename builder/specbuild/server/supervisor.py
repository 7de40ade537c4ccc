# SPDX-License-Identifier: Apache-2.0
"""Runs one server and leaves nothing of it behind, however its starter ends.

A program of its own (standard library only), because a starter that is killed cannot clean up:

- it ends the server when the pipe to its starter closes, and on SIGTERM; SIGQUIT ends it at once;
- when the server dies by itself, it ends the processes that the server has started: the Python backend's
  stubs outlive a killed tritonserver for good;
- when the process of a Python model dies, it ends the server: tritonserver before 25.12 neither notices nor
  restarts it, answers that it is ready, and lets every request of that model hang;
- if this program is killed, the kernel sends the server SIGTERM;
- it drains the server's output into a log file of bounded size, so that the server never waits for a reader;
- at last it removes the server's shared memory.

Usage: supervisor.py LOG SHM_PREFIX GRACE_SECONDS -- COMMAND...
Exit status: the server's own, or 128 + the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

LOG_LIMIT = 16 << 20
SHM = Path("/dev/shm")  # noqa: S108 (where POSIX shared memory lives)
STUB = "triton_python_backend_stub"
STUB_POLL_S = 0.5
STUB_GRACE_S = 5.0
"""How long the server may take to react to a stub's death by itself, as it does while models are loaded."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


class Log:
    """A file that keeps the newest output: at the limit it becomes ``.1`` and starts anew."""

    def __init__(self, path: Path, limit: int = LOG_LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._size = 0
        self._file = path.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append; a full disk loses lines, never the server."""
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._limit:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._path.open("wb", buffering=0)
                self._size = 0
            self._size += self._file.write(data)


class Stubs:
    """The server's Python models, each a process; finds out when one has died."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._seen: dict[int, str] = {}
        self._next_look = 0.0
        self._died_at: float | None = None

    def dead(self) -> str | None:
        """The model whose process has been dead for longer than the grace, or None."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + STUB_POLL_S
        living = dict(stubs(self._server))
        lost = [model for pid, model in self._seen.items() if pid not in living]
        if not lost:
            self._seen, self._died_at = living, None
            return None
        self._died_at = self._died_at or now
        return lost[0] if now - self._died_at >= STUB_GRACE_S else None


class Supervisor:
    """The life of one server process and of everything it starts."""

    def __init__(self, command: list[str], log: Log, grace_s: float) -> None:
        self._log = log
        self._grace_s = grace_s
        self._stopping = False
        self._at_once = False
        self._deadline: float | None = None
        self._mpirun = Path(command[0]).name == "mpirun"
        self._asked = 0
        signal.signal(signal.SIGTERM, self._request_stop)
        signal.signal(signal.SIGINT, self._request_stop)
        signal.signal(signal.SIGQUIT, self._request_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Orphans of the server become children of this process, so that they can be found and reaped.
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_in_own_group,  # noqa: PLW1509 (this process has one thread)
        )

    def run(self) -> int:
        """Wait until the server has ended, by itself or on request; its exit status."""
        assert self._server.stdout is not None
        output = self._server.stdout.fileno()
        starter, starter_pid = sys.stdin.fileno(), os.getppid()
        watched = [output, starter]
        models = Stubs(self._server.pid)
        while self._server.poll() is None:
            ready, _, _ = select.select(watched, [], [], 0.2)
            if output in ready and not self._drain(output):
                watched.remove(output)
            if starter in ready and not os.read(starter, 4096):
                watched.remove(starter)
                self._stopping = True
            if os.getppid() != starter_pid:  # something else may hold the pipe open
                self._stopping = True
            if not self._stopping and (model := models.dead()):
                self._log.write(f"error: the process of model {model} has died; ending the server\n".encode())
                kill_group(self._server.pid)
            self._stop_if_requested()
        kill_group(self._server.pid)
        reap()
        if output in watched:
            self._drain_rest(output)
        status = self._server.returncode
        return status if status >= 0 else 128 - status

    def _request_stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        self._at_once |= number == signal.SIGQUIT

    def _stop_if_requested(self) -> None:
        if not self._stopping:
            return
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace_s
            self._asked = self._answering()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._asked, signal.SIGTERM)
        elif self._asked != self._server.pid and not Path(f"/proc/{self._asked}").exists():
            self._asked = self._server.pid
            self._server.terminate()  # nobody answers any more: mpirun ends the ranks that are left
        if self._at_once or time.monotonic() > self._deadline:
            kill_group(self._server.pid)

    def _answering(self) -> int:
        """The process that answers requests: the server, or rank 0 where mpirun starts it.

        mpirun itself would let nothing be finished: told to stop, it signals its ranks a second later and
        kills them after one more (measured with Open MPI 4.1.4). Rank 0 is the first that it starts.
        """
        ranks = children(self._server.pid) if self._mpirun else []
        return min(ranks, key=_started) if ranks else self._server.pid

    def _drain(self, output: int) -> bytes:
        data = os.read(output, 1 << 16)
        self._log.write(data)
        return data

    def _drain_rest(self, output: int) -> None:
        while select.select([output], [], [], 0)[0] and self._drain(output):
            pass


def _in_own_group() -> None:
    os.setpgid(0, 0)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def kill_group(leader: int) -> None:
    """Kill every process of the group; none may be left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def reap(timeout_s: float = 5.0) -> None:
    """Kill and reap what still is, or becomes, a child of this process."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for pid in children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that any thread of ``pid`` has started; none when it has ended."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread may end meanwhile
            found += map(int, thread.read_text(encoding="ascii").split())
    return found


def stubs(pid: int) -> Iterator[tuple[int, str]]:
    """The stubs below ``pid`` with their models. What a stub forks looks like it and may come and go."""
    for child in children(pid):
        if model := _model(child):
            yield child, model
        else:
            yield from stubs(child)


def _started(pid: int) -> int:
    """When the process was started, in clock ticks since boot; a process that has ended sorts last."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return sys.maxsize
    return int(stat.rpartition(")")[2].split()[19])


def _model(pid: int) -> str | None:
    """The model that a stub runs; None for other processes and for one that has ended."""
    try:
        words = [*Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"), b""]
    except OSError:
        return None
    if not words[0].endswith(STUB.encode()):
        return None
    folders = Path(os.fsdecode(words[1])).parents  # .../MODEL/1/model.py
    # A process that is just being started or ended shows its first word only.
    return folders[1].name if len(folders) > 1 else None


def sweep(prefix: str) -> list[str]:
    """Remove the shared memory whose names begin with ``prefix``; the names removed."""
    removed = []
    for path in _regions(prefix):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            removed.append(path.name)
    return removed


def _regions(prefix: str) -> Iterable[Path]:
    return SHM.glob(f"{prefix}*") if prefix else ()


def main(arguments: list[str]) -> int:
    log, prefix, grace_s, separator, *command = arguments
    assert separator == "--"
    try:
        return Supervisor(command, Log(Path(log)), float(grace_s)).run()
    finally:
        sweep(prefix)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
