# SPDX-License-Identifier: Apache-2.0
"""An outcome as the report's document (``specclient.bench.document``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from specclient.bench.acceptance import steps
from specclient.bench.definitions import DEFINITIONS
from specclient.bench.document import (
    SCHEMA_VERSION,
    Comparison,
    Document,
    Failure,
    RequestRow,
    ServerFacts,
    SloSearch,
    Timeline,
)
from specclient.bench.document import Run as RunDocument
from specclient.bench.figures import run_document
from specclient.bench.measure import Outcome
from specclient.bench.provenance import provenance
from specclient.bench.run import Run
from specclient.bench.sample import Sample
from specclient.bench.speedup import comparison

ROWS_PER_RUN = 1000


def document(outcome: Outcome) -> Document:
    """Everything that was measured, as JSON types; what is undefined is None. Prompts are not in it."""
    settings = outcome.settings
    runs = [run_document(run, settings.goodput, settings.gpu_hour_price) for run in outcome.runs]
    compared = _comparisons(outcome)
    made: Document = {
        "schema_version": SCHEMA_VERSION,
        "kind": outcome.kind,
        "complete": outcome.complete,
        "failure": _failure(outcome.failure),
        "warnings": _warnings(outcome, runs),
        "runs": runs,
        "comparisons": compared,
        "timelines": _timelines(outcome),
        "slo": _slo(outcome),
        "requests": [
            _row(index, run, sample)
            for index, run in enumerate(outcome.runs)
            for sample in run.measured[:ROWS_PER_RUN]
        ],
        "requests_omitted": sum(max(0, len(run.measured) - ROWS_PER_RUN) for run in outcome.runs),
        "definitions": DEFINITIONS,
        "settings": _settings(outcome),
        "workload": settings.workload.facts(),  # type: ignore[typeddict-item]
        "provenance": provenance(outcome.created_at, outcome.duration_s, _servers(outcome)),
    }
    if outcome.kind == "compare":
        _shorten(made)
    return made


def _shorten(made: Document) -> None:
    """The first load point of a comparison at the top, for people and scripts."""
    nothing = {"p50": None, "ci95": None, "aggregate": None, "pairs": 0, "verdict": "inconclusive"}
    first = made["comparisons"][0] if made["comparisons"] else None
    candidate = made["runs"][1] if len(made["runs"]) > 1 else None
    same = first["greedy"] if first is not None else None
    made["speedup"] = first["tpot"] if first is not None else nothing  # type: ignore[typeddict-item]
    made["ttft_delta_ms"] = first["ttft_delta_ms"]["p50"] if first is not None else None
    made["greedy_identical"] = same["identical"] == same["total"] if same is not None else None
    made["acceptance_length"] = candidate["acceptance"]["length"] if candidate is not None else None
    made["draft_acceptance_rate"] = candidate["acceptance"]["rate"] if candidate is not None else None
    if candidate is not None:
        made["baseline"], made["speculative"] = made["runs"][0]["figures"], candidate["figures"]


def _comparisons(outcome: Outcome) -> list[Comparison]:
    settings, arms = outcome.settings, len(outcome.arms)
    if arms < 2:
        return []
    found = []
    for start in range(0, len(outcome.runs), arms):
        baseline, *others = outcome.runs[start : start + arms]
        found += [comparison(baseline, run, seed=settings.seed, greedy=settings.greedy) for run in others]
    return found


def _timelines(outcome: Outcome) -> list[Timeline]:
    """One request of each arm at the first load point, of a prompt that all of them have answered."""
    first = outcome.runs[: max(1, len(outcome.arms))]
    answered = [{s.position: s for s in run.measured if s.completion is not None} for run in first]
    common = set.intersection(*(set(found) for found in answered)) if answered else set()
    if not common:
        return []
    position = min(common)
    return [_timeline(run, found[position]) for run, found in zip(first, answered, strict=True)]


def _timeline(run: Run, sample: Sample) -> Timeline:
    answer = sample.completion
    assert answer is not None
    return {
        "arm": run.arm,
        "load": run.load.facts(),
        "prompt": sample.prompt.id,
        "chunks": [
            {"received_ms": (chunk.received_ns - sample.sent_ns) / 1e6, **asdict(step)}  # type: ignore[typeddict-item]
            for chunk, step in zip(answer.chunks, steps(answer), strict=True)
        ],
    }


def _slo(outcome: Outcome) -> SloSearch | None:
    if outcome.search is None:
        return None
    return {
        "arm": outcome.runs[0].arm if outcome.runs else "",
        "limits_ms": dict(outcome.settings.goodput),
        "share": outcome.required_share,
        "highest_rate": outcome.search.kept,
        "steps": [{"rate": rate, "share": share, "kept": kept} for rate, share, kept in outcome.search.steps],
    }


def _row(index: int, run: Run, sample: Sample) -> RequestRow:
    answer, scheduled = sample.completion, sample.scheduled_ns
    counters = answer.counters if answer is not None else None
    return {
        "run": index,
        "position": sample.position,
        "block": sample.block,
        "prompt": sample.prompt.id,
        "request_id": sample.request_id,
        "scheduled_s": (scheduled - run.started_ns) / 1e9 if scheduled is not None else None,
        "sent_s": (sample.sent_ns - run.started_ns) / 1e9 if run.started_ns else None,
        "ttft_ms": _ms(answer.ttft) if answer is not None else None,
        "tpot_ms": _ms(answer.tpot) if answer is not None else None,
        "latency_ms": _ms(answer.latency) if answer is not None else None,
        "chunks": len(answer.chunks) if answer is not None else 0,
        "finish_reason": answer.finish_reason if answer is not None else None,
        "input_tokens": counters.num_input_tokens if counters is not None else 0,
        "output_tokens": answer.output_tokens if answer is not None else 0,
        "rounds": counters.num_rounds if counters is not None else 0,
        "draft_tokens": counters.total_draft_tokens if counters is not None else 0,
        "accepted_draft_tokens": counters.total_accepted_draft_tokens if counters is not None else 0,
        "error": type(sample.error).__name__ if sample.error is not None else None,
        "message": str(sample.error) if sample.error is not None else None,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _failure(error: BaseException | None) -> Failure | None:
    if error is None:
        return None
    if isinstance(error, KeyboardInterrupt):
        return {"type": "KeyboardInterrupt", "message": "interrupted"}
    return {"type": type(error).__name__, "message": str(error)}


def _warnings(outcome: Outcome, runs: Sequence[RunDocument]) -> list[str]:
    found = list(outcome.settings.workload.warnings)
    if not outcome.complete:
        found.insert(0, "The run ended early: these are the figures of what was measured until then.")
    answered = [run for run in runs if run["requests"]["succeeded"]]
    drafting = [run["acceptance"]["draft_tokens"] for run in answered if run["arm"] == "speculative"]
    if drafting and not any(drafting):
        found.append("The server drafted no token: does this deployment speculate at all?")
    few = [run["requests"]["succeeded"] for run in answered if run["requests"]["succeeded"] < 100]
    if few:
        found.append(f"p99 of {min(few)} requests is close to the maximum: read it as such.")
    busy = [run for run in runs if run["client"]["bottleneck"]]
    if busy:
        share = max(run["client"]["cpu_share"] or 0.0 for run in busy)
        found.append(
            f"In {len(busy)} of {len(runs)} runs the client was busy or its event loop late (up to "
            f"{share:.0%} of a core): it may have limited what was measured. See client in the report."
        )
    unstable = [
        f"{run['arm']} at {run['load']['value']:g}" for run in runs if run["window"]["stable"] is False
    ]
    if unstable:
        found.append(f"The intervals did not agree, and the last three are reported: {', '.join(unstable)}.")
    cut = [run for run in runs if run["window"]["rule"] == "time" and not run["requests"]["succeeded"]]
    if cut:
        found.append("No request ended in the window of a load point: raise --duration.")
    return found


def _servers(outcome: Outcome) -> list[ServerFacts]:
    return [
        {
            "arm": arm.name,
            "url": arm.target.url,
            "protocol": arm.target.protocol,
            "server": arm.target.server.name,
            "version": arm.target.server.version,
            "model": arm.target.model,
            "platform": arm.target.server.platform,
        }
        for arm in outcome.arms
    ]


def _settings(outcome: Outcome) -> dict[str, Any]:
    settings = outcome.settings
    return {
        "url": settings.url,
        "model": settings.model,
        "loads": [load.facts() for load in settings.loads],
        "request_count": settings.request_count,
        "duration_s": settings.duration_s,
        "stability": asdict(settings.stability) if settings.stability is not None else None,
        "warmup_request_count": settings.warmup_request_count,
        "ramp_s": settings.ramp_s,
        "random_seed": settings.seed,
        "goodput": dict(settings.goodput),
        "gpu_hour_price": settings.gpu_hour_price,
        "parameters": asdict(settings.parameters),
        "timeout_s": asdict(settings.timeout),
    }
