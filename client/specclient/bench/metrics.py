# SPDX-License-Identifier: Apache-2.0
"""Figures of one arm. A figure without a value is None, never 0 or NaN.

Percentiles interpolate linearly (NumPy's default) and come with their n. Tokens are counted by the server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from specclient.bench.runner import Recording
from specclient.completion import Completion, Counters

DEFINITIONS = {
    "ttft_ms": "time to first token: from sending the request to the receipt of its first chunk",
    "tpot_ms": "time per output token: (last token - first token) / (output tokens - 1), per request",
    "inter_chunk_ms": "time between two consecutive chunks of a request; a chunk may hold several tokens",
    "tokens_per_chunk": "output tokens / chunks, per request",
    "latency_ms": "from sending the request to the receipt of its last chunk",
    "tokens_per_second": "output tokens of successful requests / duration of the complete blocks",
    "draft_acceptance_rate": "accepted draft tokens / drafted tokens, over all requests",
    "acceptance_length": "1 + accepted draft tokens / rounds, over all requests: tokens per round",
    "speedup": "baseline TPOT / speculative TPOT of the same prompt; p50 is the median over prompts, "
    "ci95 its bootstrap interval over blocks, aggregate the ratio of the total decoding times per token",
    "speedup.latency": "the same for whole requests: baseline latency / speculative latency",
    "ttft_delta_ms": "median over prompts of speculative TTFT - baseline TTFT",
    "greedy_identical": "whether both runs of each prompt gave the same tokens; null when sampling",
}


@dataclass(frozen=True, slots=True)
class Distribution:
    """Statistics of n values."""

    n: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


def distribution(values: Iterable[float | None], *, scale: float = 1.0) -> Distribution | None:
    """The statistics of the values that are not None, times ``scale``; None when there are none."""
    present = np.array([value for value in values if value is not None], dtype=np.float64) * scale
    if present.size == 0:
        return None
    p50, p90, p95, p99 = (float(value) for value in np.percentile(present, (50, 90, 95, 99)))
    return Distribution(
        n=present.size,
        mean=float(present.mean()),
        std=float(present.std()),
        min=float(present.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(present.max()),
    )


def completions(recording: Recording, arm: str) -> list[Completion]:
    """The successful requests of ``arm``."""
    return [r.completion for r in recording.records if r.arm == arm and r.completion is not None]


def totals(answers: Iterable[Completion]) -> Counters:
    """The counters of all answers, added up: rates of it are token-weighted."""
    columns = zip(*(asdict(answer.counters).values() for answer in answers), strict=True)
    return Counters(*(sum(column) for column in columns))


def arm_figures(recording: Recording, arm: str) -> dict[str, Any]:
    """Every figure of ``arm``, as JSON types."""
    answers = completions(recording, arm)
    counters = totals(answers)
    distributions = {
        "ttft_ms": distribution((a.ttft for a in answers), scale=1e3),
        "tpot_ms": distribution((a.tpot for a in answers), scale=1e3),
        "inter_chunk_ms": distribution((gap for a in answers for gap in a.chunk_gaps), scale=1e3),
        "latency_ms": distribution((a.latency for a in answers), scale=1e3),
        "tokens_per_chunk": distribution(a.output_tokens / len(a.chunks) for a in answers if a.chunks),
        "input_tokens": distribution(a.counters.num_input_tokens for a in answers),
        "output_tokens": distribution(a.output_tokens for a in answers),
        "acceptance_length": distribution(a.acceptance_length for a in answers),
    }
    return {
        "requests": len(answers),
        "errors": _errors(recording, arm),
        "tokens_per_second": _throughput(recording, arm),
        "total_output_tokens": sum(answer.output_tokens for answer in answers),
        "rounds": counters.num_rounds,
        "draft_tokens": counters.total_draft_tokens,
        "accepted_draft_tokens": counters.total_accepted_draft_tokens,
        **{name: asdict(value) if value else None for name, value in distributions.items()},
    }


def _errors(recording: Recording, arm: str) -> dict[str, int]:
    return dict(
        Counter(type(r.error).__name__ for r in recording.records if r.arm == arm and r.error is not None)
    )


def _throughput(recording: Recording, arm: str) -> float | None:
    walls = {block: wall for (name, block), wall in recording.wall_s.items() if name == arm}
    tokens = sum(
        r.completion.output_tokens
        for r in recording.records
        if r.arm == arm and r.completion is not None and r.block in walls
    )
    return tokens / sum(walls.values()) if tokens else None
