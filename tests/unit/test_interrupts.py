# SPDX-License-Identifier: Apache-2.0
"""A signal cancels a command's work, wherever it is, and the work ends in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from specbuild.commands.interrupts import Interrupts

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


def test_a_signal_while_output_blocks_does_not_wait_for_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.echo", lambda *_a, **_k: os.kill(os.getpid(), signal.SIGINT))
    interrupts = Interrupts()

    async def work() -> None:
        interrupts.echo("text")
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
