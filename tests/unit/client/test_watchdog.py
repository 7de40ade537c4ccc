# SPDX-License-Identifier: Apache-2.0
"""Deadlines for blocking reads fire once, in order, and not after they were disarmed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from specclient.watchdog import Watchdog


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


def test_actions_run_in_the_order_of_their_deadlines(watchdog: Watchdog) -> None:
    ran: queue.Queue[int] = queue.Queue()
    for key, seconds in ((3, 0.15), (1, 0.01), (2, 0.08)):
        watchdog.arm(key, seconds, lambda key=key: ran.put(key))  # type: ignore[misc]
    assert [ran.get(timeout=5) for _ in range(3)] == [1, 2, 3]


def test_a_disarmed_or_moved_deadline_does_not_fire(watchdog: Watchdog) -> None:
    fired: list[str] = []
    done = threading.Event()
    watchdog.arm(1, 0.02, lambda: fired.append("disarmed"))
    watchdog.arm(2, 0.02, lambda: fired.append("moved"))
    watchdog.disarm(1)
    watchdog.arm(2, 60, lambda: fired.append("later"))
    watchdog.arm(3, 0.1, done.set)
    assert done.wait(5)
    assert fired == []


def test_closing_ends_the_thread_and_forgets_the_rest() -> None:
    watchdog = Watchdog()
    fired: list[int] = []
    watchdog.arm(1, 0.05, lambda: fired.append(1))
    watchdog.close()
    assert not [t for t in threading.enumerate() if t.name == "specclient-watchdog"]
    watchdog.arm(2, 0.0, lambda: fired.append(2))
    assert fired == []
