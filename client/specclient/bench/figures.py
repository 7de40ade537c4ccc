# SPDX-License-Identifier: Apache-2.0
"""The figures of one run. A figure without a value is None, never 0 or NaN."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from specclient.bench import server_side, slo
from specclient.bench.acceptance import acceptance, steps
from specclient.bench.document import Client, Distribution, Figures, Goodput
from specclient.bench.document import Run as RunDocument
from specclient.bench.load import Concurrency
from specclient.bench.run import Run, completions
from specclient.bench.sample import Sample
from specclient.completion import Completion

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
BUSY_CPU_SHARE = 0.8
"""Of one core; above, this process may have been what was measured."""
LAG_SHARE = 0.05
"""The loop's p95 lag may be this share of the time it blurs."""
LEAST_LAG_MS = 2.0
"""Timers of asyncio are rounded up to milliseconds: less is no lag."""


def distribution(values: Iterable[float | None], *, scale: float = 1.0) -> Distribution | None:
    """The statistics of the values that are not None, times ``scale``; None when there are none."""
    present = np.array([value for value in values if value is not None], dtype=np.float64) * scale
    if present.size == 0:
        return None
    p1, p5, p10, p25, p50, p75, p90, p95, p99 = (float(v) for v in np.percentile(present, PERCENTILES))
    return {
        "n": int(present.size),
        "mean": float(present.mean()),
        "std": float(present.std()),
        "min": float(present.min()),
        "p1": p1,
        "p5": p5,
        "p10": p10,
        "p25": p25,
        "p50": p50,
        "p75": p75,
        "p90": p90,
        "p95": p95,
        "p99": p99,
        "max": float(present.max()),
    }


def run_document(run: Run, goodput: Mapping[str, float], gpu_hour_price: float | None) -> RunDocument:
    """Everything about one run, as JSON types."""
    measured = run.measured
    answers = completions(measured)
    values = figures(run, measured, answers)
    errors = [s.error for s in measured if s.error is not None]
    rate = values["tokens_per_second"]
    return {
        "arm": run.arm,
        "load": run.load.facts(),
        "complete": run.complete,
        "window": {
            "duration_s": run.duration_s,
            "rule": run.rule,
            "stable": run.stable,
            "intervals": run.intervals,
        },
        "requests": {
            "succeeded": len(answers),
            "failed": len(errors),
            "outside_window": sum(bool(s.ended_ns) for s in run.samples) - len(measured),
            "cut_off": run.cut_off,
        },
        "errors": dict(Counter(type(error).__name__ for error in errors)),
        "first_error": str(errors[0]) if errors else None,
        "figures": values,
        "acceptance": acceptance(answers),
        "goodput": _goodput(measured, goodput, run.duration_s) if goodput else None,
        "cost_per_million_output_tokens": (
            gpu_hour_price / (rate * 3600) * 1e6 if gpu_hour_price is not None and rate else None
        ),
        "server": (
            server_side.figures(server_side.together(run.statistics), front=run.target.model)
            if run.statistics
            else None
        ),
        "client": _client(run, values),
    }


def figures(run: Run, measured: Sequence[Sample], answers: Sequence[Completion]) -> Figures:
    """The distributions and rates of the successful requests."""
    good = [s for s in measured if s.completion is not None]
    counted = good if run.rule != "blocks" else [s for s in good if s.block in run.walls_s]
    duration = run.duration_s
    tokens = sum(s.completion.output_tokens for s in counted if s.completion is not None)
    open_loop = not isinstance(run.load, Concurrency)
    return {
        "ttft_ms": distribution((a.ttft for a in answers), scale=1e3),
        "tpot_ms": distribution((a.tpot for a in answers), scale=1e3),
        "itl_ms": distribution((gap for a in answers for gap in _token_gaps(a)), scale=1e3),
        "inter_chunk_ms": distribution((gap for a in answers for gap in a.chunk_gaps), scale=1e3),
        "tokens_per_chunk": distribution(step.tokens for a in answers for step in steps(a)),
        "latency_ms": distribution((a.latency for a in answers), scale=1e3),
        "sent_to_first_token_ms": distribution(_sent_to_first(good), scale=1e-6),
        "schedule_lag_ms": (
            distribution((s.sent_ns - s.origin_ns for s in good), scale=1e-6) if open_loop else None
        ),
        "input_tokens": distribution(a.counters.num_input_tokens or None for a in answers),
        "output_tokens": distribution(a.output_tokens for a in answers),
        "acceptance_length": distribution(a.acceptance_length for a in answers),
        "tokens_per_second_per_user": distribution(1 / a.tpot if a.tpot else None for a in answers),
        "tokens_per_second": tokens / duration if duration and tokens else None,
        "requests_per_second": len(counted) / duration if duration and counted else None,
    }


def _sent_to_first(samples: Iterable[Sample]) -> Iterator[float]:
    for sample in samples:
        if sample.completion is not None and sample.completion.chunks:
            yield sample.completion.chunks[0].received_ns - sample.sent_ns


def _token_gaps(answer: Completion) -> Iterator[float]:
    """Seconds between consecutive tokens: 0 inside a chunk. Nothing where chunks have no token counts."""
    made = steps(answer)
    if any(step.tokens is None for step in made):
        return
    yield from [0.0] * max(0, (made[0].tokens or 0) - 1 if made else 0)
    for gap, step in zip(answer.chunk_gaps, made[1:], strict=True):
        if step.tokens:
            yield gap
            yield from [0.0] * (step.tokens - 1)


def _goodput(measured: Sequence[Sample], limits: Mapping[str, float], duration: float | None) -> Goodput:
    kept = sum(slo.good(sample, limits) for sample in measured)
    return {
        "limits_ms": dict(limits),
        "good": kept,
        "share": kept / len(measured) if measured else None,
        "requests_per_second": kept / duration if duration else None,
    }


def _client(run: Run, values: Figures) -> Client:
    share, lag = run.meter.cpu_share, distribution(run.meter.lags_s, scale=1e3)
    blurred = [found["p50"] for found in (values["ttft_ms"], values["inter_chunk_ms"]) if found is not None]
    late = lag is not None and bool(blurred) and lag["p95"] > max(LEAST_LAG_MS, LAG_SHARE * min(blurred))
    return {
        "cpu_share": share,
        "loop_lag_ms": lag,
        "bottleneck": late or (share is not None and share > BUSY_CPU_SHARE),
    }
