# SPDX-License-Identifier: Apache-2.0
"""How requests arrive: a number of users, or a rate with its law; read from the command line's text."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from specclient.bench import document
from specclient.bench.document import Arrival
from specclient.errors import InvalidRequest

MOST_POINTS = 64


@dataclass(frozen=True, slots=True)
class Concurrency:
    """A closed loop: ``value`` users, each sending its next request when the last one has ended."""

    value: int

    def __post_init__(self) -> None:
        if self.value < 1:
            raise InvalidRequest(f"concurrency is {self.value}", remedy="Use at least 1.")

    def __str__(self) -> str:
        return f"concurrency {self.value}"

    def facts(self) -> document.Load:
        return {"kind": "concurrency", "value": float(self.value), "arrival": None}


@dataclass(frozen=True, slots=True)
class Rate:
    """An open loop: ``value`` requests per second, whatever the server does."""

    value: float
    arrival: Arrival = "poisson"
    burstiness: float = 1.0
    """Shape of the gamma law, as vLLM's option: 1 is Poisson, below it arrivals come in bursts."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0 and self.burstiness > 0):
            raise InvalidRequest(
                f"rate is {self.value}, burstiness {self.burstiness}", remedy="Use positive numbers."
            )

    def __str__(self) -> str:
        return f"{self.value:g} requests/s"

    def facts(self) -> document.Load:
        return {"kind": "rate", "value": self.value, "arrival": self.arrival}

    def arrivals(self, seed: int) -> Iterator[float]:
        """Seconds from the start at which requests are due: an absolute schedule that nothing delays."""
        if self.arrival == "constant":
            for index in itertools.count():
                yield index / self.value
        generator = random.Random(seed)
        shape = self.burstiness if self.arrival == "gamma" else 1.0
        due = 0.0
        while True:
            yield due
            due += generator.gammavariate(shape, 1 / (shape * self.value))


@dataclass(frozen=True, slots=True)
class Replay:
    """An open loop that follows a trace: ``times`` are seconds from the start, in order."""

    times: tuple[float, ...]

    def __str__(self) -> str:
        return "replay"

    def facts(self) -> document.Load:
        span = self.times[-1] if self.times else 0.0
        rate = (len(self.times) - 1) / span if span else 0.0
        return {"kind": "rate", "value": rate, "arrival": "replay"}

    def arrivals(self, seed: int) -> Iterator[float]:
        """The trace's own times, whatever the seed."""
        return iter(self.times)


OpenLoop = Rate | Replay
Load = Concurrency | Rate | Replay


def numbers(text: str) -> list[float]:
    """``1,2,4`` or ``START:END[:STEP]``, where a STEP of xN multiplies. Raises InvalidRequest."""
    values: list[float] = []
    for part in text.split(","):
        values += _range(part) if ":" in part else [_number(part)]
        if len(values) > MOST_POINTS:
            raise InvalidRequest(
                f"{text} has more than {MOST_POINTS} load points", remedy="Use a larger step."
            )
    return values


def _range(text: str) -> list[float]:
    match = re.fullmatch(r"([^:]+):([^:]+)(?::(x?)([^:]+))?", text)
    if match is None:
        raise InvalidRequest(
            f"{text} is no range", remedy="Write START:END, START:END:STEP or START:END:xFACTOR."
        )
    start, end = _number(match[1]), _number(match[2])
    factor, step = bool(match[3]), _number(match[4] or "1")
    if start <= 0 or end < start or step <= (1 if factor else 0):
        raise InvalidRequest(
            f"{text} does not lead from its start to its end", remedy="Write, for example, 1:32:x2 or 2:10:2."
        )
    values = [start]
    while len(values) <= MOST_POINTS:
        following = values[-1] * step if factor else start + len(values) * step
        if following > end * (1 + 1e-9):
            break
        values.append(following)
    return values


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidRequest(f"{text!r} is no number", remedy="Write numbers such as 1,2,4,8 or 1:32:x2.")
    return value
