# SPDX-License-Identifier: Apache-2.0
"""Carries out a benchmark: one arm over its load points, several arms alternating, or a search for a rate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from specclient.bench.document import Kind
from specclient.bench.drive import OVERLOAD, Driver
from specclient.bench.load import Concurrency, Load, Rate
from specclient.bench.run import Run
from specclient.bench.sample import Sample
from specclient.bench.server_side import difference
from specclient.bench.settings import Settings
from specclient.bench.slo import RateSearch, good
from specclient.bench.targets import Target, TritonTarget
from specclient.errors import InvalidRequest, SpecClientError
from specclient.interrupts import Interrupts

BASELINE = "baseline"
SPECULATIVE = "speculative"

PROMPTS_PER_USER = 2
"""In a block, when there are several users: fewer leave them waiting for the slowest one's end."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the things that are measured or compared."""

    name: str
    target: Target
    num_draft_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load point is; ``total`` is None when time decides."""

    phase: Literal["warm-up", "measuring"]
    done: int
    total: int | None
    arm: str
    load: Load


OnProgress = Callable[[Progress], None]


@dataclass(slots=True)
class Outcome:
    """What was measured, whole or cut short."""

    kind: Kind
    settings: Settings
    arms: tuple[Arm, ...] = ()
    runs: list[Run] = field(default_factory=list)
    search: RateSearch | None = None
    required_share: float = 1.0
    """Of good requests, for the search."""
    failure: BaseException | None = None
    """Why it ended early: a SpecClientError or KeyboardInterrupt. None when it is complete."""
    created_at: float = field(default_factory=time.time)
    """Wall clock, for the record; nothing is computed from it."""
    duration_s: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether everything that was planned was measured."""
        return self.failure is None


def compare(settings: Settings, on_progress: OnProgress | None = None) -> Outcome:
    """With and without speculation, the same prompts, alternating; blocks until done.

    Ctrl-C and a failing server end it early with what was measured; the caller decides what to do about
    ``Outcome.failure`` after saving the report. So do the other functions here.
    """
    if settings.parameters.num_draft_tokens == 0:
        raise InvalidRequest(
            "num_draft_tokens is 0 in the speculative arm",
            remedy="Leave it out for the deployment's draft length, or give at least 1.",
        )
    if not _in_blocks(settings):
        raise InvalidRequest(
            "a comparison sends the same prompts in every arm, in a closed loop",
            remedy="Give concurrencies and a number of requests.",
        )

    def arms() -> tuple[Arm, ...]:
        target = triton(settings)
        return (
            Arm(BASELINE, target, num_draft_tokens=0),
            Arm(SPECULATIVE, target, settings.parameters.num_draft_tokens),
        )

    return _measured(Outcome("compare", settings), arms, lambda o: _interleave(o, on_progress))


def measure(
    settings: Settings, kind: Literal["latency", "throughput"], on_progress: OnProgress | None = None
) -> Outcome:
    """One deployment over its load points; blocks until done."""
    return _measured(
        Outcome(kind, settings), lambda: (_deployment(settings),), lambda o: _sweep(o, on_progress)
    )


def search(
    settings: Settings,
    rates: RateSearch,
    *,
    share: float,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """The highest rate at which ``share`` of the requests keep ``settings.goodput``; blocks until done.

    The arrivals are those of ``settings.loads[0]``, a Rate.
    """
    if not settings.goodput or not isinstance(settings.loads[0], Rate):
        raise InvalidRequest("a search needs limits and a rate", remedy="Give --goodput, as ttft:200.")
    outcome = Outcome("throughput", settings, search=rates, required_share=share)
    return _measured(
        outcome, lambda: (_deployment(settings),), lambda o: _search(o, rates, share, on_progress)
    )


def servers(
    settings: Settings, arms: Callable[[], tuple[Arm, ...]], on_progress: OnProgress | None = None
) -> Outcome:
    """Servers by name; alternating in a closed loop of a given count, else in turn; blocks until done."""
    outcome = Outcome("openai", settings)

    async def run(outcome: Outcome) -> None:
        paired = len(outcome.arms) > 1 and _in_blocks(settings)
        await (_interleave if paired else _sweep)(outcome, on_progress)

    return _measured(outcome, arms, run)


def _deployment(settings: Settings) -> Arm:
    """The one arm of a deployment that is not compared."""
    name = BASELINE if settings.parameters.num_draft_tokens == 0 else SPECULATIVE
    return Arm(name, triton(settings), settings.parameters.num_draft_tokens)


def triton(settings: Settings) -> TritonTarget:
    """The target that the settings name."""
    return TritonTarget(
        settings.url,
        settings.model,
        timeout=settings.timeout,
        tls=settings.tls,
        headers=settings.headers,
        token=settings.token,
        chat_template=settings.chat_template,
    )


def _measured(
    outcome: Outcome,
    arms: Callable[[], tuple[Arm, ...]],
    work: Callable[[Outcome], Coroutine[Any, Any, None]],
) -> Outcome:
    start = time.perf_counter()
    try:
        Interrupts().run(_connected(outcome, arms, work))
    except (SpecClientError, KeyboardInterrupt) as error:
        outcome.failure = error
    outcome.duration_s = time.perf_counter() - start
    return outcome


async def _connected(
    outcome: Outcome,
    arms: Callable[[], tuple[Arm, ...]],
    work: Callable[[Outcome], Coroutine[Any, Any, None]],
) -> None:
    outcome.arms = arms()
    targets = list(dict.fromkeys(arm.target for arm in outcome.arms))
    try:
        for target in targets:
            await target.open()
        await work(outcome)
    finally:
        for run in outcome.runs:
            run.decode()
        for target in targets:
            await target.close()
    _require_any(outcome.runs)


# --- one arm after the other ---


async def _sweep(outcome: Outcome, on_progress: OnProgress | None) -> None:
    for load in outcome.settings.loads:
        for arm in outcome.arms:
            await _point(outcome, arm, load, on_progress)


async def _search(outcome: Outcome, rates: RateSearch, share: float, on_progress: OnProgress | None) -> None:
    (law,) = outcome.settings.loads
    assert isinstance(law, Rate)
    while (rate := rates.next()) is not None:
        run = await _point(outcome, outcome.arms[0], replace(law, value=rate), on_progress)
        run.decode()
        measured = run.measured
        kept = sum(good(sample, outcome.settings.goodput) for sample in measured)
        reached = kept / len(measured) if measured else None
        rates.record(rate, reached, kept=reached is not None and reached >= share)


async def _point(outcome: Outcome, arm: Arm, load: Load, on_progress: OnProgress | None) -> Run:
    settings = outcome.settings
    run = Run(arm.name, load, arm.target, arm.num_draft_tokens)
    outcome.runs.append(run)
    counted = settings.duration_s is None and settings.stability is None
    total = settings.count(load) + settings.warmup_request_count if counted else None
    report = _Counter(run, total, on_progress)
    async with _observed(run):
        await Driver(run, settings, report).drive()
    _require_answer([run])
    return run


# --- arms alternating ---


async def _interleave(outcome: Outcome, on_progress: OnProgress | None) -> None:
    """Blocks of prompts in every arm, in an order that is reversed from block to block.

    So a machine that gets slower or faster during the run treats all arms alike. With one user a block is
    one prompt; above, a block keeps all users busy with one arm, since requests of two arms in one batch
    would measure a mixture.
    """
    settings = outcome.settings
    for load in settings.loads:
        assert isinstance(load, Concurrency)
        runs = [Run(arm.name, load, arm.target, arm.num_draft_tokens, rule="blocks") for arm in outcome.arms]
        outcome.runs += runs
        count = settings.count(load)
        drawn = list(
            enumerate(settings.workload.draw(count + settings.warmup_request_count, seed=settings.seed))
        )
        report = _Counter(runs[0], len(runs) * len(drawn), on_progress)
        drivers = [Driver(run, settings, report) for run in runs]
        size = 1 if load.value == 1 else PROMPTS_PER_USER * load.value
        await _blocks(runs, drivers, drawn[count:], size, warmup=True)
        await _blocks(runs, drivers, drawn[:count], size, warmup=False)
        for run in runs:
            run.complete = True
        _require_answer(runs)


async def _blocks(
    runs: Sequence[Run],
    drivers: Sequence[Driver],
    prompts: Sequence[Any],
    size: int,
    *,
    warmup: bool,
) -> None:
    for number, start in enumerate(range(0, len(prompts), size)):
        pairs = list(zip(runs, drivers, strict=True))
        for run, driver in pairs if number % 2 == 0 else reversed(pairs):
            block = prompts[start : start + size]
            if warmup:
                await driver.block(block, None)
            else:
                async with _observed(run):
                    await driver.block(block, number)


# --- both ---


@contextlib.asynccontextmanager
async def _observed(run: Run) -> AsyncIterator[None]:
    """Meter the client and read the server's totals before and after the block."""
    before = await run.target.statistics()
    async with run.meter:
        yield
    after = await run.target.statistics()
    if before is not None and after is not None:
        run.statistics.append(difference(before, after))


class _Counter:
    """Turns samples into progress."""

    def __init__(self, run: Run, total: int | None, on_progress: OnProgress | None) -> None:
        self._run = run
        self._total = total
        self._on_progress = on_progress
        self._done = 0

    def __call__(self, sample: Sample) -> None:
        self._done += 1
        if self._on_progress is not None:
            phase: Literal["warm-up", "measuring"] = "warm-up" if sample.warmup else "measuring"
            self._on_progress(Progress(phase, self._done, self._total, self._run.arm, self._run.load))


def _in_blocks(settings: Settings) -> bool:
    """Whether the arms can alternate: blocks of prompts need a closed loop and a count."""
    counted = settings.duration_s is None and settings.stability is None
    return counted and all(isinstance(load, Concurrency) for load in settings.loads)


def _require_answer(runs: Sequence[Run]) -> None:
    """Raise the first error when no request succeeded, unless the load may be the reason."""
    for run in runs:
        errors = [s.error for s in run.samples if s.error is not None]
        answered = any(s.error is None and s.ended_ns for s in run.samples)
        if errors and not answered and not isinstance(errors[0], OVERLOAD):
            raise errors[0]


def _require_any(runs: Sequence[Run]) -> None:
    """Raise the first error when the whole benchmark has no answer."""
    errors = [sample.error for run in runs for sample in run.samples if sample.error is not None]
    if errors and not any(s.error is None and s.ended_ns for run in runs for s in run.samples):
        raise errors[0]
