# SPDX-License-Identifier: Apache-2.0
"""A comparison as one JSON document, and that document as a table for the terminal."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from specclient.bench.comparison import BASELINE, SPECULATIVE, Comparison
from specclient.bench.metrics import DEFINITIONS, arm_figures, completions, totals
from specclient.bench.runner import Record
from specclient.bench.speedup import Pair, Speedup, pairs, speedup

SCHEMA_VERSION = 1
BUSY_CLIENT = 0.5
"""Share of one core from which this process may have been what was measured."""


def document(comparison: Comparison) -> dict[str, Any]:
    """Everything that was measured, as JSON types; what is undefined is None. Prompts are not in it."""
    settings, recording = comparison.settings, comparison.recording
    paired = pairs(recording, baseline=BASELINE, speculative=SPECULATIVE)
    counters = totals(completions(recording, SPECULATIVE))
    identical = [_same(pair) for pair in paired] if settings.greedy else []
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "compare",
        "complete": comparison.complete,
        "failure": _failure(comparison.failure),
        "warnings": _warnings(comparison),
        "speedup": _speedup(comparison, paired),
        "acceptance_length": counters.acceptance_length,
        "draft_acceptance_rate": counters.draft_acceptance_rate,
        "greedy_identical": all(identical) if identical else None,
        "greedy": {"identical": sum(identical), "total": len(identical)} if identical else None,
        "ttft_delta_ms": _ttft_delta(paired),
        BASELINE: arm_figures(recording, BASELINE),
        SPECULATIVE: arm_figures(recording, SPECULATIVE),
        "settings": {
            "url": settings.url,
            "model": settings.model,
            "concurrency": settings.concurrency,
            "request_count": settings.request_count,
            "warmup_request_count": settings.warmup_request_count,
            "random_seed": settings.seed,
            "parameters": asdict(settings.parameters),
            "timeout_s": asdict(settings.timeout),
        },
        "workload": {
            "name": settings.workload.name,
            "licence": settings.workload.licence,
            "sha256": settings.workload.sha256,
            "prompts": len(settings.workload.prompts),
        },
        "definitions": DEFINITIONS,
        "provenance": _provenance(comparison),
        "requests": [_request(record) for record in recording.records],
    }


def _same(pair: Pair) -> bool:
    """Whether both runs gave the same tokens; by text where the server sends no tokens."""
    if pair.baseline.token_ids or pair.speculative.token_ids:
        return pair.baseline.token_ids == pair.speculative.token_ids
    return pair.baseline.text == pair.speculative.text


def _speedup(comparison: Comparison, paired: list[Pair]) -> dict[str, Any]:
    seed = comparison.settings.seed
    decoding = _figures(speedup(paired, lambda answer: answer.tpot, seed=seed))
    return {**decoding, "latency": _figures(speedup(paired, lambda answer: answer.latency, seed=seed))}


def _figures(value: Speedup | None) -> dict[str, Any]:
    if value is None:
        return {"p50": None, "ci95": None, "aggregate": None, "pairs": 0, "verdict": "inconclusive"}
    interval = None if value.ci95 is None else list(value.ci95)
    return {**asdict(value), "ci95": interval, "verdict": value.verdict}


def _ttft_delta(paired: list[Pair]) -> float | None:
    deltas = [
        (pair.speculative.ttft - pair.baseline.ttft) * 1e3
        for pair in paired
        if pair.speculative.ttft is not None and pair.baseline.ttft is not None
    ]
    return statistics.median(deltas) if deltas else None


def _failure(error: BaseException | None) -> dict[str, str] | None:
    if error is None:
        return None
    if isinstance(error, KeyboardInterrupt):
        return {"type": "KeyboardInterrupt", "message": "interrupted"}
    return {"type": type(error).__name__, "message": str(error)}


def _warnings(comparison: Comparison) -> list[str]:
    answers = completions(comparison.recording, SPECULATIVE)
    found = []
    if not comparison.complete:
        found.append("The run ended early: these are the figures of what was measured until then.")
    if answers and totals(answers).total_draft_tokens == 0:
        found.append("The server drafted no token: does this deployment speculate at all?")
    if answers and len(answers) < 100:
        found.append(f"p99 of {len(answers)} requests is close to the maximum: read it as such.")
    share = comparison.client_cpu_s / comparison.duration_s if comparison.duration_s else 0.0
    if share > BUSY_CLIENT:
        found.append(f"This client used {share:.0%} of a core: it may have limited what was measured.")
    return found


def _provenance(comparison: Comparison) -> dict[str, Any]:
    server = comparison.metadata
    return {
        "created_at": datetime.fromtimestamp(comparison.created_at, timezone.utc).isoformat(
            timespec="seconds"
        ),
        "duration_s": comparison.duration_s,
        "client_cpu_s": comparison.client_cpu_s,
        "argv": list(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": {name: _version(name) for name in ("specbuild", "grpcio", "tritonclient", "numpy")},
        "server": None if server is None else {"name": server.server_name, "version": server.server_version},
        "model": None
        if server is None
        else {
            "name": server.model,
            "platform": server.model_platform,
            "versions": list(server.model_versions),
        },
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _request(record: Record) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "arm": record.arm,
        "block": record.block,
        "position": record.position,
        "prompt": record.prompt.id,
    }
    if record.completion is None:
        return {**facts, "error": type(record.error).__name__, "message": str(record.error)}
    answer = record.completion
    return {
        **facts,
        "request_id": answer.request_id,
        "ttft_ms": _ms(answer.ttft),
        "tpot_ms": _ms(answer.tpot),
        "latency_ms": _ms(answer.latency),
        "chunks": len(answer.chunks),
        "finish_reason": answer.finish_reason,
        **asdict(answer.counters),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


ROWS = (
    ("Time To First Token (ms)", "ttft_ms"),
    ("Time Per Output Token (ms)", "tpot_ms"),
    ("Inter-Chunk Latency (ms)", "inter_chunk_ms"),
    ("Request Latency (ms)", "latency_ms"),
    ("Tokens Per Chunk", "tokens_per_chunk"),
    ("Output Sequence Length", "output_tokens"),
)
PERCENTILES = ("p50", "p95", "p99")


def render(report: dict[str, Any]) -> RenderableType:
    """A ``document`` for the terminal, in 80 columns or more."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("Statistic", no_wrap=True)
    for arm in (BASELINE, SPECULATIVE):
        for percentile in PERCENTILES:
            title = arm if percentile == "p50" else ""
            table.add_column(f"{title}\n{percentile}", justify="right", no_wrap=True)
    for title, key in ROWS:
        cells = [_cell(report[arm][key], p) for arm in (BASELINE, SPECULATIVE) for p in PERCENTILES]
        table.add_row(title, *cells)
    rate = [_number(report[arm]["tokens_per_second"]) for arm in (BASELINE, SPECULATIVE)]
    table.add_row("Output Tokens Per Second", rate[0], "", "", rate[1], "", "")
    return Group(table, Text(), *_sentences(report))


def _sentences(report: dict[str, Any]) -> list[Text]:
    lines = []
    for arm in (BASELINE, SPECULATIVE):
        if report[arm]["errors"]:
            counts = ", ".join(f"{count} {kind}" for kind, count in report[arm]["errors"].items())
            first = next(r["message"] for r in report["requests"] if r["arm"] == arm and "error" in r)
            lines.append(Text(f"{arm}: {counts}; the first: {first}", style="red"))
    lines.append(
        Text(
            f"acceptance length {_number(report['acceptance_length'], 2)}, draft acceptance rate "
            f"{_number(report['draft_acceptance_rate'], 3)}, ΔTTFT {_number(report['ttft_delta_ms'])} ms"
        )
    )
    if report["greedy"] is not None:
        counts = report["greedy"]
        style = "green" if report["greedy_identical"] else "yellow"
        lines.append(Text(f"same tokens in {counts['identical']} of {counts['total']} pairs", style=style))
    lines.append(_verdict(report["speedup"]))
    lines += [Text(f"note: {warning}", style="yellow") for warning in report["warnings"]]
    return lines


def _verdict(figures: dict[str, Any]) -> Text:
    if figures["p50"] is None:
        return Text("speed-up: not measured", style="bold yellow")
    interval = (
        "no interval" if figures["ci95"] is None else "95 % CI {:.2f} to {:.2f}".format(*figures["ci95"])
    )
    style = {"faster": "bold green", "slower": "bold red", "inconclusive": "bold yellow"}[figures["verdict"]]
    return Text(
        f"speed-up {figures['p50']:.2f}x ({interval}, {figures['pairs']} pairs): {figures['verdict']}",
        style=style,
    )


def _cell(figures: dict[str, Any] | None, percentile: str) -> str:
    return _number(None if figures is None else figures[percentile])


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits if abs(value) < 1000 else 0}f}"
