# SPDX-License-Identifier: Apache-2.0
"""What speculation gains on a running server: the same prompts with and without it, alternating."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from specclient.aio import AsyncSpecClient
from specclient.bench import workload
from specclient.bench.runner import OnProgress, Recording, Runner
from specclient.bench.speedup import pairs
from specclient.bench.workload import Workload
from specclient.channel import DEFAULT_URL, Tls
from specclient.errors import InvalidRequest, SpecClientError
from specclient.inspection import Metadata
from specclient.parameters import GenerationParameters
from specclient.protocol import FRONT_MODEL
from specclient.retry import Retry
from specclient.timeouts import Timeout

BASELINE = "baseline"
SPECULATIVE = "speculative"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One comparison."""

    url: str = DEFAULT_URL
    model: str = FRONT_MODEL
    concurrency: int = 1
    request_count: int = 20
    """Prompts; each is sent once in either arm."""
    warmup_request_count: int = 2
    """Prompts sent in either arm before anything is measured."""
    seed: int = 0
    """Order of the prompts, sampling seeds and bootstrap."""
    parameters: GenerationParameters = field(
        default_factory=lambda: GenerationParameters(max_tokens=128, temperature=0.0)
    )
    """Of the speculative arm; the baseline differs in ``num_draft_tokens`` 0 only."""
    workload: Workload = field(default_factory=workload.bundled)
    timeout: Timeout = field(default_factory=Timeout)
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.concurrency, self.request_count) < 1 or self.warmup_request_count < 0:
            raise InvalidRequest(
                "concurrency and request_count are at least 1", remedy="Raise the number that is too small."
            )
        if self.parameters.num_draft_tokens == 0:
            raise InvalidRequest(
                "num_draft_tokens is 0 in the speculative arm",
                remedy="Leave it out for the deployment's draft length, or give at least 1.",
            )

    @property
    def greedy(self) -> bool:
        """Whether both arms must give the same tokens."""
        p = self.parameters
        return (
            p.temperature == 0
            or p.top_k == 1
            or (p.temperature is None and p.top_k is None and p.top_p is None)
        )


@dataclass(slots=True)
class Comparison:
    """The outcome of a run, whole or cut short."""

    settings: Settings
    recording: Recording = field(default_factory=Recording)
    metadata: Metadata | None = None
    failure: BaseException | None = None
    """Why the run ended early: a SpecClientError or KeyboardInterrupt. None when it is complete."""
    created_at: float = field(default_factory=time.time)
    """Wall clock, for the record; nothing is computed from it."""
    duration_s: float = 0.0
    client_cpu_s: float = 0.0
    """Processor time of this process: when it nears ``duration_s``, the client is what was measured."""

    @property
    def complete(self) -> bool:
        """Whether every request of the plan was sent and answered or refused."""
        return self.failure is None


def compare(settings: Settings, on_progress: OnProgress | None = None) -> Comparison:
    """Measure; blocks until done. Ctrl-C and a failing server end it early, with what was measured.

    The caller decides what to do about ``Comparison.failure`` after saving the report.
    """
    comparison = Comparison(settings)
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        asyncio.run(_measure(comparison, on_progress))
    except (SpecClientError, KeyboardInterrupt) as error:
        comparison.failure = error
    comparison.duration_s = time.perf_counter() - start
    comparison.client_cpu_s = time.process_time() - cpu_start
    return comparison


async def _measure(comparison: Comparison, on_progress: OnProgress | None) -> None:
    settings = comparison.settings
    client = AsyncSpecClient(
        settings.url,
        settings.model,
        timeout=settings.timeout,
        retry=Retry(attempts=1),  # a retry would hide what is to be measured
        tls=settings.tls,
        headers=settings.headers,
    )
    async with client:
        comparison.metadata = await client.metadata()
        arms = {
            BASELINE: lambda position: _parameters(settings, position, num_draft_tokens=0),
            SPECULATIVE: lambda position: _parameters(
                settings, position, num_draft_tokens=settings.parameters.num_draft_tokens
            ),
        }
        runner = Runner(client, arms, concurrency=settings.concurrency, on_progress=on_progress)
        drawn = settings.workload.draw(
            settings.request_count + settings.warmup_request_count, seed=settings.seed
        )
        await runner.run(
            drawn[: settings.request_count], drawn[settings.request_count :], comparison.recording
        )
    if not pairs(comparison.recording, baseline=BASELINE, speculative=SPECULATIVE):
        # Nothing was answered twice, so there is nothing to compare: the first error says why.
        raise next(r.error for r in comparison.recording.records if r.error is not None)


def _parameters(settings: Settings, position: int, *, num_draft_tokens: int | None) -> GenerationParameters:
    """Those of one request: both arms of a pair sample with the same seed, each pair with its own."""
    seed = settings.parameters.seed
    if not settings.greedy:
        seed = (settings.seed if seed is None else seed) + position
    return replace(settings.parameters, seed=seed, num_draft_tokens=num_draft_tokens)
