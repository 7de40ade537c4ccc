# SPDX-License-Identifier: Apache-2.0
"""Waiting for a fact, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Fact = TypeVar("Fact")


def until(
    fact: Callable[[], Fact | None], what: str, *, timeout_s: float = 20.0, every_s: float = 0.02
) -> Fact:
    """The first true value of ``fact``; fails the test when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = fact()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(every_s)
