# SPDX-License-Identifier: Apache-2.0
"""A report as CSV: a line for each arm at each load point, every figure in a column of its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from specclient.bench.document import Acceptance, Comparison, Distribution, Document, Figures, Run

STATISTICS = tuple(get_type_hints(Distribution))
REQUESTS = ("succeeded", "failed", "outside_window", "cut_off")
RATES = ("tokens_per_second", "requests_per_second")
DISTRIBUTIONS = tuple(name for name in get_type_hints(Figures) if name not in RATES)
ACCEPTANCE = tuple(name for name in get_type_hints(Acceptance) if name != "by_position")


def csv_text(document: Document) -> str:
    """The lines, with a header and CRLF (RFC 4180). All reports have the same columns; undefined is empty."""
    rows = [_row(document, run) for run in document["runs"]]
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=columns())
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def columns() -> list[str]:
    """The header."""
    return [
        "kind",
        "arm",
        "load_kind",
        "load_value",
        "arrival",
        "complete",
        "duration_s",
        *(f"requests_{name}" for name in REQUESTS),
        *RATES,
        *(f"{name}_{statistic}" for name in DISTRIBUTIONS for statistic in STATISTICS),
        *(f"acceptance_{name}" if name in ("length", "rate") else name for name in ACCEPTANCE),
        "goodput_share",
        "goodput_requests_per_second",
        "cost_per_million_output_tokens",
        "client_cpu_share",
        "client_bottleneck",
        *(f"speedup_{name}" for name in ("p50", "ci95_low", "ci95_high", "pairs", "verdict")),
        "workload_sha256",
    ]


def _row(document: Document, run: Run) -> dict[str, Any]:
    figures: Mapping[str, Any] = run["figures"]
    acceptance: Mapping[str, Any] = run["acceptance"]
    goodput = run["goodput"]
    row: dict[str, Any] = {
        "kind": document["kind"],
        "arm": run["arm"],
        "load_kind": run["load"]["kind"],
        "load_value": run["load"]["value"],
        "arrival": run["load"]["arrival"],
        "complete": run["complete"],
        "duration_s": run["window"]["duration_s"],
        "cost_per_million_output_tokens": run["cost_per_million_output_tokens"],
        "client_cpu_share": run["client"]["cpu_share"],
        "client_bottleneck": run["client"]["bottleneck"],
        "workload_sha256": document["workload"]["sha256"],
    }
    row |= {f"requests_{name}": count for name, count in run["requests"].items()}
    row |= {name: figures[name] for name in RATES}
    for name in DISTRIBUTIONS:
        row |= {f"{name}_{statistic}": value for statistic, value in (figures[name] or {}).items()}
    for name in ACCEPTANCE:
        row[f"acceptance_{name}" if name in ("length", "rate") else name] = acceptance[name]
    if goodput is not None:
        row |= {
            "goodput_share": goodput["share"],
            "goodput_requests_per_second": goodput["requests_per_second"],
        }
    for comparison in _of(document, run):
        speedup = comparison["tpot"]
        low, high = speedup["ci95"] or (None, None)
        row |= {
            "speedup_p50": speedup["p50"],
            "speedup_ci95_low": low,
            "speedup_ci95_high": high,
            "speedup_pairs": speedup["pairs"],
            "speedup_verdict": speedup["verdict"],
        }
    return row


def _of(document: Document, run: Run) -> Iterator[Comparison]:
    """The comparison whose candidate this run is, if there is one."""
    for comparison in document["comparisons"]:
        if comparison["candidate"] == run["arm"] and comparison["load"] == run["load"]:
            yield comparison
