# SPDX-License-Identifier: Apache-2.0
"""What a benchmark is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from specclient.address import DEFAULT_URL
from specclient.bench.load import Concurrency, Load, Replay
from specclient.bench.workload import Prompt, Workload, bundled
from specclient.channel import Tls
from specclient.errors import InvalidRequest
from specclient.parameters import GenerationParameters
from specclient.protocol import FRONT_MODEL
from specclient.timeouts import Timeout

DEFAULT_COUNT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """Measure until the last three intervals agree (perf_analyzer's rule).

    They agree when in each of them the request rate and the mean latency are within ``percentage`` of their
    means over the three.
    """

    percentage: float = 10.0
    interval_s: float = 5.0
    trials: int = 10
    """Most intervals; the last three are then reported as not stable."""

    def __post_init__(self) -> None:
        if not (self.percentage > 0 and self.interval_s > 0 and self.trials >= 3):
            raise InvalidRequest(
                f"{self} cannot hold", remedy="Use positive numbers, and at least 3 intervals."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One benchmark. ``request_count``, ``duration_s`` or ``stability`` says how long a load point lasts."""

    url: str = DEFAULT_URL
    model: str = FRONT_MODEL
    loads: tuple[Load, ...] = (Concurrency(1),)
    request_count: int | None = None
    """Requests per load point; in a comparison prompts, each sent once in every arm."""
    duration_s: float | None = None
    stability: Stability | None = None
    warmup_request_count: int = 2
    """Requests before the measured ones, per arm and load point."""
    ramp_s: float = 0.0
    """Users of a closed loop start spread over this time; what is sent or due within it is not measured."""
    seed: int = 0
    """Order of the prompts, sampling, arrivals, bootstrap."""
    parameters: GenerationParameters = field(
        default_factory=lambda: GenerationParameters(max_tokens=128, temperature=0.0)
    )
    """Of every request. The baseline arm differs in ``num_draft_tokens`` 0 only."""
    workload: Workload = field(default_factory=bundled)
    timeout: Timeout = field(default_factory=Timeout)
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Never in the report, like the token: they may hold secrets."""
    token: str | None = None
    """Bearer token."""
    chat_template: Path | None = None
    """Tokenizer's folder; with it every prompt is sent to Triton as chat."""
    goodput: Mapping[str, float] = field(default_factory=dict)
    """Limits in milliseconds by metric; see ``specclient.bench.slo``."""
    gpu_hour_price: float | None = None
    """Price per hour of all GPUs that serve."""

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.request_count, self.duration_s, self.stability)) > 1:
            raise InvalidRequest(
                "a load point has more than one length",
                remedy="Give one of the number of requests, the duration and the stability rule.",
            )
        if (
            not self.loads
            or self.warmup_request_count < 0
            or self.ramp_s < 0
            or (self.request_count is not None and self.request_count < 1)
            or (self.duration_s is not None and not self.duration_s > 0)
        ):
            raise InvalidRequest("a number is too small", remedy="Counts are at least 1, times positive.")
        if any(isinstance(load, Replay) for load in self.loads) and not self.workload.replayed:
            raise InvalidRequest("the workload has no arrival times", remedy="Replay a trace.")

    @property
    def greedy(self) -> bool:
        """Whether equal prompts must give equal tokens."""
        p = self.parameters
        return (
            p.temperature == 0
            or p.top_k == 1
            or (p.temperature is None and p.top_k is None and p.top_p is None)
        )

    def count(self, load: Load) -> int:
        """Requests at ``load`` when their number decides: at least eight for every user."""
        if self.request_count is not None:
            return self.request_count
        return max(DEFAULT_COUNT, 8 * load.value) if isinstance(load, Concurrency) else DEFAULT_COUNT

    def request(self, prompt: Prompt, position: int, num_draft_tokens: int | None) -> GenerationParameters:
        """The parameters of one request: those of one position sample with the same seed in every arm."""
        seed = self.parameters.seed
        if not self.greedy:
            seed = (self.seed if seed is None else seed) + position
        max_tokens = prompt.output_tokens or self.parameters.max_tokens
        if (seed, num_draft_tokens, max_tokens) == (
            self.parameters.seed,
            self.parameters.num_draft_tokens,
            self.parameters.max_tokens,
        ):
            return self.parameters
        return replace(self.parameters, seed=seed, num_draft_tokens=num_draft_tokens, max_tokens=max_tokens)
