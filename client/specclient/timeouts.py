# SPDX-License-Identifier: Apache-2.0
"""How long a request may take, as one value.

    Timeout()                     5 s to connect, 60 s to the first token, 30 s between tokens, 600 s in all
    Timeout(first_token=300)      a long queue is fine
    Timeout(total=None)           no limit on the whole; the others still hold

A limit is needed: when the process behind a model dies, Triton keeps the stream open without a word
(measured on 2.51), and a client without limits waits for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from specclient.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Timeout:
    """Limits in seconds; None means no limit."""

    connect: float | None = 5.0
    """For one attempt to connect. It belongs to the client, not to a request."""
    first_token: float | None = 60.0
    """From sending to the first token; queueing and the prompt's computation count."""
    idle: float | None = 30.0
    """Between two chunks, while the caller waits for the next one."""
    total: float | None = 600.0
    """From the first attempt to the last chunk, with all retries."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InvalidRequest(
                    f"Timeout.{field.name} is {value}", remedy="Use a positive number of seconds, or None."
                )


def countdown(seconds: float | None) -> Callable[[], float | None]:
    """A function that says how many of ``seconds`` are left: for several steps with one limit."""
    end = None if seconds is None else time.monotonic() + seconds
    return lambda: None if end is None else max(0.0, end - time.monotonic())
