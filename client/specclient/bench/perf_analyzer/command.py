# SPDX-License-Identifier: Apache-2.0
"""perf_analyzer's command line and its input file. Pure; options as version 2.60 prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specclient.bench.load import Concurrency, Load, Rate
from specclient.bench.settings import Settings
from specclient.bench.workload import Prompt
from specclient.contract import Tensors
from specclient.errors import InvalidRequest
from specclient.parameters import GenerationParameters

START_S = 60.0
"""For its start, on a busy machine."""

LONGEST_GAP = 30
"""Between two Poisson arrivals, in mean gaps; a longer one has a probability of 1e-13."""

LISTS = ("stop_words", "bad_words", "embedding_bias_words", "embedding_bias_weights")
"""Tensors whose length differs from request to request: their shape must be said."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the input file."""

    prompt: Prompt
    parameters: GenerationParameters
    tensors: Tensors

    @property
    def text(self) -> str:
        """The prompt as it is sent; the export repeats it."""
        (text,) = self.tensors["text_input"]
        return str(text.decode())


def argv(program: Path, settings: Settings, url: str, load: Load, *, inputs: Path, export: Path) -> list[str]:
    """The command for one load point, which ``check`` lets pass; ``url`` is HOST:PORT."""
    # Not --warmup-request-count: 2.60 never ends then at a request rate. The first ones are left out instead.
    count = requests(settings, load)
    if isinstance(load, Concurrency):
        loads = ["--concurrency-range", f"{load.value}:{load.value}:1"]
    else:
        assert isinstance(load, Rate)
        loads = ["--request-rate-range", f"{load.value:g}:{load.value:g}:1"]
        loads += ["--request-distribution", load.arrival]
    return [
        str(program),
        *("-m", settings.model),
        *("-u", url),
        *("-i", "grpc", "--streaming", "--async"),
        *("--input-data", str(inputs)),
        *loads,
        *("--request-count", str(count)),
        *("--profile-export-file", str(export)),
    ]


def requests(settings: Settings, load: Load) -> int:
    """How many requests it sends at ``load``, those of the warm-up included."""
    return settings.count(load) + settings.warmup_request_count


def patience_s(settings: Settings, load: Load) -> float | None:
    """The longest time in which no request ends, if each keeps ``timeout.total``; None without one."""
    total = settings.timeout.total
    if total is None:
        return None
    return START_S + total + (LONGEST_GAP / load.value if isinstance(load, Rate) else 0.0)


def input_data(asked: Sequence[Asked]) -> dict[str, Any]:
    """The input file: an entry for each request, with the tensors that our own client would send."""
    return {"data": [_entry(one.tensors) for one in asked]}


def _entry(tensors: Tensors) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for name, values in tensors.items():
        content = [value.decode() if isinstance(value, bytes) else value for value in values]
        entry[name] = {"content": content, "shape": [len(content)]} if name in LISTS else content
    return entry


def check(settings: Settings) -> None:
    """Raises InvalidRequest for what perf_analyzer cannot do."""
    for load in settings.loads:
        _require_possible(settings, load, requests(settings, load))


def _require_possible(settings: Settings, load: Load, count: int) -> None:
    arrival = load.arrival if isinstance(load, Rate) else None
    least = load.value if isinstance(load, Concurrency | Rate) else 0
    for wrong, message, remedy in (
        (
            settings.tls is not None or settings.headers or settings.token is not None,
            "perf_analyzer is run without TLS, token and headers here",
            "Measure such a server with `bench latency` or `bench throughput`.",
        ),
        (
            settings.workload.replayed,
            "perf_analyzer is not run at the times of a trace here",
            "Replay it with `bench latency` or `bench throughput`.",
        ),
        (
            not isinstance(load, Concurrency | Rate) or arrival == "gamma",
            f"perf_analyzer has no such load: {load}",
            "Give a concurrency, or a rate with constant or Poisson arrivals.",
        ),
        (
            count < least,
            f"{count} requests are too few for {load}",
            "perf_analyzer needs at least as many requests as users, or as requests per second.",
        ),
    ):
        if wrong:
            raise InvalidRequest(message, remedy=remedy)
