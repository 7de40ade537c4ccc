# SPDX-License-Identifier: Apache-2.0
"""Servers under mpirun: rank 0 may finish what it answers, and no rank outlives the supervisor.

The ``mpirun`` here does what Open MPI 4.1.4 was measured to do, in a tenth of its time: ranks get process
groups of their own; on SIGTERM it signals all of them after a pause and kills them after another.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from specbuild.server import supervisor
from support.waiting import until

MPIRUN = """#!{python}
import os, signal, subprocess, sys, time

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
ranks = [subprocess.Popen([sys.executable, *sys.argv[1:], str(n)], start_new_session=True) for n in (0, 1)]
while any([rank.poll() is None for rank in ranks]):
    time.sleep(0.1)
    if asked:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for rank in ranks:
                rank.send_signal(number)
            time.sleep(0.1)
        sys.exit(1)
"""
RANK = """
import os, signal, sys, time

def drain(*_):
    time.sleep(0.7)
    os.write(1, f"drained {rank}\\n".encode())
    sys.exit(0)

rank = sys.argv[1]
if rank == "0":
    signal.signal(signal.SIGTERM, drain)
os.write(1, f"rank {rank} {os.getpid()}\\n".encode())  # at once: the ranks share the pipe
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def supervised(tmp_path: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    mpirun, rank = tmp_path / "mpirun", tmp_path / "rank.py"
    mpirun.write_text(MPIRUN.format(python=sys.executable))
    mpirun.chmod(0o755)
    rank.write_text(RANK)
    program = [sys.executable, "-I", supervisor.__file__, str(log), "", "20", "--"]
    command = [*program, str(mpirun), str(rank)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process


def ranks(log: Path) -> list[psutil.Process] | None:
    """Both ranks, once both have said that they are up."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    pids = [int(words[2]) for words in lines if words[0] == "rank" and len(words) == 3]
    return [psutil.Process(pid) for pid in pids] if len(pids) == 2 else None


def ended(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() for process in processes)


def test_rank_0_finishes_and_the_others_are_ended(supervised: subprocess.Popen[bytes], log: Path) -> None:
    both = until(lambda: ranks(log), "two ranks")
    assert supervised.stdin is not None
    supervised.stdin.close()
    assert supervised.wait(15) == 1
    assert "drained 0" in log.read_text()
    assert ended(both)


def test_at_once_means_every_rank(supervised: subprocess.Popen[bytes], log: Path) -> None:
    both = until(lambda: ranks(log), "two ranks")
    supervised.send_signal(signal.SIGQUIT)
    assert supervised.wait(15) == 128 + signal.SIGKILL
    until(lambda: ended(both), "the ranks to end")


def test_no_rank_outlives_a_killed_supervisor(supervised: subprocess.Popen[bytes], log: Path) -> None:
    both = until(lambda: ranks(log), "two ranks")
    supervised.kill()
    supervised.wait()
    until(lambda: ended(both), "the ranks to end")
