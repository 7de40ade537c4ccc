# SPDX-License-Identifier: Apache-2.0
"""The supervisor leaves nothing behind, whatever the server does and however its starter ends.

The "server" here is a few lines of Python: faults of tritonserver itself are in test_server_faults.py.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from specbuild.server import supervisor
from support.waiting import until

PRELUDE = "import os, signal, subprocess, sys, time\n"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
ORPHAN = (
    "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    "print('orphan', child.pid, flush=True)\n"
)
WAIT = "print('up', os.getpid(), flush=True)\nwhile True: time.sleep(1)\n"

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def start(log: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, *, grace_s: float = 5.0, prefix: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", supervisor.__file__, str(log), prefix, str(grace_s), "--"]
        process = subprocess.Popen(
            [*command, sys.executable, "-c", PRELUDE + program], stdin=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.kill()
        process.wait()


def said(log: Path, word: str) -> int:
    """The number that the server printed after ``word``."""
    return until(lambda: next((int(rest) for rest in numbers(log, word)), None), f"{word} in the log")


def numbers(log: Path, word: str) -> Iterator[str]:
    # Without the last line as long as it is not whole.
    for line in log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []:
        first, _, rest = line.partition(" ")
        if first == word:
            yield rest


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("program", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9)]
)
def test_the_servers_own_end_is_reported(start: Start, program: str, status: int) -> None:
    assert start(program).wait(10) == status


def test_closing_the_pipe_stops_the_server(start: Start, log: Path) -> None:
    process = start(WAIT)
    pid = said(log, "up")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert gone(pid)


def test_a_server_that_ignores_the_request_is_killed_after_the_grace(start: Start, log: Path) -> None:
    process = start(STUBBORN + WAIT, grace_s=0.3)
    said(log, "up")
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGKILL


def test_sigquit_does_not_wait_for_the_grace(start: Start, log: Path) -> None:
    process = start(STUBBORN + WAIT, grace_s=600)
    said(log, "up")
    process.terminate()
    process.send_signal(signal.SIGQUIT)
    assert process.wait(10) == 128 + signal.SIGKILL


@pytest.mark.parametrize("end", ["sys.exit(3)\n", WAIT], ids=["server dies", "server is stopped"])
def test_what_the_server_started_ends_with_it_even_in_another_session(
    start: Start, log: Path, end: str
) -> None:
    process = start(ORPHAN + end)
    orphan = said(log, "orphan")
    if end == WAIT:
        process.terminate()
    process.wait(10)
    assert gone(orphan)


def test_if_the_supervisor_is_killed_the_server_still_stops(start: Start, log: Path) -> None:
    process = start(WAIT)
    pid = said(log, "up")
    process.kill()
    until(lambda: gone(pid), "the server to end")


def test_if_the_starter_is_killed_everything_stops(log: Path) -> None:
    starter = (
        "import subprocess, sys\n"
        "supervisor, log, program = sys.argv[1:]\n"
        "command = [sys.executable, '-I', supervisor, log, '', '5', '--', sys.executable, '-c', program]\n"
        "subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True).wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", starter, supervisor.__file__, str(log), PRELUDE + WAIT])
    server = psutil.Process(said(log, "up"))
    keeper = server.parent()
    process.kill()
    process.wait()
    assert keeper is not None
    until(lambda: gone(server.pid) and gone(keeper.pid), "server and supervisor to end")


def test_a_flood_of_output_neither_stalls_the_server_nor_fills_the_disk(start: Start, log: Path) -> None:
    program = (
        "for _ in range(40): os.write(1, b'\\xff' * (1 << 20))\n"  # 40 MiB, not UTF-8
        "print('last', 1, flush=True)\n"
    )
    assert start(program).wait(30) == 0
    assert log.read_bytes().endswith(b"last 1\n")
    assert sum(path.stat().st_size for path in log.parent.iterdir()) <= 2 * supervisor.LOG_LIMIT


def test_a_full_disk_does_not_stop_the_server(start: Start, log: Path) -> None:
    log.symlink_to("/dev/full")
    assert start("print('x' * 100000, flush=True); sys.exit(5)").wait(10) == 5


def test_a_dead_model_process_ends_the_server_but_what_a_model_forks_may_end(
    start: Start, log: Path, tmp_path: Path
) -> None:
    """Python under the stub's name stands for a stub; it forks a child that ends at once, and then dies."""
    stub = tmp_path / supervisor.STUB
    stub.symlink_to(sys.executable)
    model = tmp_path / "mine" / "1" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text(
        "import os, sys, time\n"
        "if not os.fork(): time.sleep(1); os._exit(0)\n"
        "os.wait()\n"
        "print('forked', 1, flush=True)\n"
        "sys.stdin.read()\n"
    )
    program = (
        f"stub = subprocess.Popen([{str(stub)!r}, {str(model)!r}], stdin=subprocess.PIPE)\n"
        "print('stub', stub.pid, flush=True)\n" + WAIT
    )
    process = start(program)
    said(log, "forked")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(supervisor.STUB_GRACE_S + 2 * supervisor.STUB_POLL_S)
    os.kill(said(log, "stub"), signal.SIGKILL)
    assert process.wait(supervisor.STUB_GRACE_S + 10) == 128 + signal.SIGKILL
    assert "error: the process of model mine has died" in log.read_text()


def test_its_own_shared_memory_is_swept_and_no_other(start: Start) -> None:
    prefix = f"specbuild-test-{secrets.token_hex(4)}-"
    other = supervisor.SHM / f"other-{prefix}"
    other.touch()
    try:
        program = f"open('/dev/shm/{prefix}region', 'w'); os.kill(os.getpid(), signal.SIGKILL)"
        start(program, prefix=prefix).wait(10)
        assert not list(supervisor.SHM.glob(f"{prefix}*"))
        assert other.exists()
    finally:
        other.unlink()


def test_an_empty_prefix_sweeps_nothing() -> None:
    assert supervisor.sweep("") == []


def test_a_program_that_does_not_exist_is_an_error_and_not_a_hang(log: Path) -> None:
    command = [sys.executable, "-I", supervisor.__file__, str(log), "", "1", "--", str(log / "missing")]
    result = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, timeout=10, check=False)
    assert result.returncode not in (0, os.EX_USAGE)
    assert b"NotADirectoryError" in result.stderr or b"FileNotFoundError" in result.stderr


def test_a_model_that_shows_no_more_than_its_program_yet_is_none(tmp_path: Path) -> None:
    """As every model does for a moment, between fork and exec."""
    command = [str(tmp_path / supervisor.STUB)]
    with subprocess.Popen(command, executable=sys.executable, stdin=subprocess.PIPE) as process:
        until(lambda: supervisor.children(os.getpid()), "the process to start")
        assert list(supervisor.stubs(os.getpid())) == []
        process.kill()
