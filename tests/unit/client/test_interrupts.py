# SPDX-License-Identifier: Apache-2.0
"""A signal cancels a command's work, wherever it is, and the work ends in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from specclient.interrupts import Interrupts

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test must leave the handlers that it found."""
    before = [signal.signal(number, signal.default_int_handler) for number in SIGNALS]
    yield
    found = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    assert found == [signal.default_int_handler] * 2


async def answer() -> str:
    await asyncio.sleep(0)
    return "done"


def test_work_that_nobody_interrupts_has_its_result() -> None:
    assert Interrupts().run(answer()) == "done"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_cancels_the_work_which_still_cleans_up(number: int) -> None:
    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        Interrupts().run(work())
    assert cleaned == [True]


def test_a_signal_before_the_loop_runs_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.run

    def run(main: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(main)

    monkeypatch.setattr("asyncio.run", run)
    with pytest.raises(KeyboardInterrupt):
        Interrupts().run(asyncio.sleep(60))


def test_a_signal_that_the_work_does_not_notice_is_not_lost() -> None:
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        Interrupts().run(work())


def test_what_the_program_leaves_to_the_system_stays_so() -> None:
    async def handlers() -> list[Any]:
        return [signal.getsignal(number) for number in SIGNALS]

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        mine, systems = Interrupts().run(handlers())
    finally:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    assert callable(mine) and systems is signal.SIG_DFL


def test_outside_the_main_thread_it_runs_as_well() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(Interrupts().run, answer()).result() == "done"


def test_a_signal_while_output_blocks_does_not_wait_for_the_reader() -> None:
    interrupts = Interrupts()

    async def work() -> None:
        with interrupts.writing():
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the interrupt was lost")

    with pytest.raises(KeyboardInterrupt):
        interrupts.run(work())


def test_a_signal_at_the_very_end_does_no_harm() -> None:
    interrupts = Interrupts()
    assert interrupts.run(answer()) == "done"
    interrupts._interrupt(signal.SIGINT, None)


def test_an_error_of_the_work_is_its_own() -> None:
    async def work() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        Interrupts().run(work())


def test_a_cancellation_that_is_no_interrupt_stays_one() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        Interrupts().run(work())
