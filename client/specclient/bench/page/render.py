# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page: no script, no request to anywhere, every text escaped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from specclient.bench.document import Document, Run
from specclient.bench.page import charts, timeline
from specclient.bench.page.charts import Chart
from specclient.bench.page.numbers import NONE, interval, load_cell, load_head, load_name, number, percent
from specclient.bench.page.table import Table

TITLES = {
    "latency": "Latency",
    "throughput": "Throughput",
    "compare": "With and without speculation",
    "openai": "Comparison of servers",
    "perf-analyzer": "Measured by perf_analyzer",
}

_STYLE = Path(__file__).with_name("style.css")


def html(document: Document) -> str:
    """The page. ``document`` must have the shape of its type (``read`` checks a saved one)."""
    title = f"{TITLES[document['kind']]} · specbuild bench"
    body = "".join(
        (_head(document), _cards(document), _runs(document), _charts(document), _details(document))
    )
    style = _STYLE.read_text(encoding="utf-8")
    # The policy holds the promise of the docstring, whatever a report contains.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


def _head(document: Document) -> str:
    provenance, workload = document["provenance"], document["workload"]
    servers = dict.fromkeys(f"{s['model']} at {s['url']}" for s in provenance["servers"])
    sub = f"{provenance['created_at']} · {', '.join(servers)} · prompts {workload['name']}"
    parts = [f"<h1>{escape(TITLES[document['kind']])}</h1>", f'<p class="soft">{escape(sub)}</p>']
    if not document["complete"]:
        failure = document["failure"]
        why = f" {failure['type']}: {failure['message']}" if failure else ""
        parts.append(f'<div class="alert" role="alert">Incomplete: the run ended early.{escape(why)}</div>')
    if notices := _notices(document):
        items = "".join(f"<li>{escape(text)}</li>" for text in notices)
        parts.append(f'<div class="notices"><ul>{items}</ul></div>')
    return "".join(parts)


def _notices(document: Document) -> list[str]:
    notices = list(document["warnings"])
    if "pair" in document:  # of `demo`, which makes its pair
        notices.append("The pair is synthetic: its acceptance says nothing about that of a trained pair.")
    for run in document["runs"]:
        if run["errors"]:
            counts = ", ".join(f"{count} {kind}" for kind, count in run["errors"].items())
            where = f"{run['arm']}, {load_name(run['load'])}"
            notices.append(f"{where}: {counts}. The first: {run['first_error']}")
    return notices


def _cards(document: Document) -> str:
    """The result in a few numbers: of the first load point, which the cards name."""
    if not document["runs"]:
        return ""
    first = document["runs"][0]["load"]
    cards: list[tuple[str, str, str, str]] = []
    for comparison in document["comparisons"]:
        if comparison["load"] != first:
            continue
        tpot = comparison["tpot"]
        text = NONE if tpot["p50"] is None else f"{tpot['p50']:.2f}×"
        small = f"{tpot['verdict']}, 95 % interval {interval(tpot['ci95'])}, {tpot['pairs']} pairs"
        cards.append((f"speed-up of {comparison['candidate']}", text, small, tpot["verdict"]))
    for run in document["runs"]:
        if run["load"] == first:
            rate = number(run["figures"]["tokens_per_second"])
            cards.append((f"tokens/s, {run['arm']}", rate, load_name(first), ""))
    drafting = next((run for run in document["runs"] if run["acceptance"]["draft_tokens"]), None)
    if drafting is not None:
        length, rate = drafting["acceptance"]["length"], percent(drafting["acceptance"]["rate"])
        cards.append(
            ("acceptance length", number(length, 2), f"tokens per round; {rate} of drafts accepted", "")
        )
    if (slo := document["slo"]) is not None:
        small = f"requests/s at which {slo['share']:.0%} keep {_limits(slo['limits_ms'])}"
        cards.append(("highest rate", number(slo["highest_rate"]), small, ""))
    items = "".join(
        f"<div><dt>{escape(name)}</dt>"
        f'<dd class="{look}">{escape(text)}<small>{escape(small)}</small></dd></div>'
        for name, text, small, look in cards
    )
    return f'<dl class="cards">{items}</dl>'


def _runs(document: Document) -> str:
    """The main tables: a row for each arm at each load point."""
    runs = document["runs"]
    if not runs:
        return "<p>Nothing was measured.</p>"
    head = load_head(run["load"] for run in runs)
    names = (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("latency_ms", "latency"))
    times = [f"{title} {percentile}" for _, title in names for percentile in ("p50", "p99")]
    latencies = [
        (
            *(load_cell(run["load"], head), run["arm"]),
            *(f"{run['requests'][end]:,}" for end in ("succeeded", "failed")),
            *(_at(run, key, percentile) for key, _ in names for percentile in ("p50", "p99")),
        )
        for run in runs
    ]
    rates = [
        (
            *(load_cell(run["load"], head), run["arm"]),
            number(run["figures"]["tokens_per_second"]),
            number(run["figures"]["requests_per_second"]),
            NONE if run["goodput"] is None else number(run["goodput"]["requests_per_second"]),
            *(_at(run, "inter_chunk_ms", percentile) for percentile in ("p50", "p99")),
            _at(run, "tokens_per_chunk", "mean"),
            number(run["acceptance"]["length"], 2),
            percent(run["acceptance"]["rate"]),
            number(run["cost_per_million_output_tokens"]),
        )
        for run in runs
    ]
    rate_heads = ["tokens per s", "requests per s", "good requests per s", "chunk gap p50", "chunk gap p99"]
    rate_heads += ["tokens per chunk", "acceptance length", "draft acceptance rate", "cost per M tokens"]
    return "".join(
        (
            "<h2>Figures</h2>",
            Table(
                "Latency; times in ms", [head, "arm", "answered", "failed", *times], latencies, text_columns=2
            ).html(),
            Table("Throughput and speculation", [head, "arm", *rate_heads], rates, text_columns=2).html(),
        )
    )


def _at(run: Run, key: str, percentile: str) -> str:
    values: Mapping[str, float] | None = run["figures"][key]  # type: ignore[literal-required]
    return NONE if values is None else number(values[percentile])


def _charts(document: Document) -> str:
    shown: Iterable[Chart | None] = (
        charts.speedup_by_load(document),
        charts.latency_by_throughput(document),
        charts.acceptance_by_position(document),
        timeline.rounds(document),
        *charts.percentile_curves(document),
    )
    sections = "".join(_chart(chart) for chart in shown if chart is not None)
    return f'<h2>Charts</h2><div class="charts">{sections}</div>' if sections else ""


def _chart(chart: Chart) -> str:
    opened = "" if chart.long else " open"
    return (
        f'<section id="{chart.key}"><h3>{escape(chart.title)}</h3>{chart.svg}'
        f'<p class="note">{escape(chart.note)}</p>'
        f"<details{opened}><summary>{escape(chart.title)} as a table</summary>"
        f"{chart.table.html()}</details></section>"
    )


def _details(document: Document) -> str:
    workload: Mapping[str, Any] = document["workload"]
    provenance: dict[str, Any] = {**document["provenance"]}
    provenance["argv"] = shlex.join(provenance["argv"])
    return "".join(
        (
            _slo(document),
            _server(document),
            "<h2>The synthetic pair, in closed form</h2>" + _list(document["pair"])
            if "pair" in document
            else "",
            "<h2>Definitions</h2>",
            _list(document["definitions"]),
            "<h2>Prompts</h2>",
            _list(workload),
            "<h2>Settings</h2>",
            _list(document["settings"]),
            "<h2>Where this comes from</h2>",
            _list({"schema_version": document["schema_version"], **provenance}),
        )
    )


def _slo(document: Document) -> str:
    slo = document["slo"]
    if slo is None:
        return ""
    rows = [
        (number(step["rate"]), percent(step["share"]), "kept" if step["kept"] else "missed")
        for step in slo["steps"]
    ]
    caption = f"Rates tried for {_limits(slo['limits_ms'])}, at least {slo['share']:.0%} of the requests"
    return (
        "<h2>Search for the highest rate</h2>"
        + Table(caption, ("requests/s", "good requests", "limits"), rows, text_columns=0).html()
    )


def _server(document: Document) -> str:
    parts = ("queue", "compute_input", "compute_infer", "compute_output", "request")
    head = load_head(run["load"] for run in document["runs"])
    rows = [
        (
            load_cell(run["load"], head),
            run["arm"],
            model["model"],
            model["role"],
            f"{model['requests']:,}",
            f"{model['executions']:,}",
            *(number(model[f"{part}_ms"]) for part in parts),  # type: ignore[literal-required]
            number(model["busy_s"]),
        )
        for run in document["runs"]
        for model in run["server"] or ()
    ]
    if not rows:
        return ""
    heads = [head, "arm", "model", "role", "requests", "executions", "queue", "input"]
    heads += ["infer", "output", "request", "busy (s)"]
    caption = "Triton's own statistics of each model over the run; means per request in ms"
    return "<h2>Inside the server</h2>" + Table(caption, heads, rows, text_columns=4).html()


def _limits(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ≤ {value:g} ms" for name, value in limits.items())


def _list(values: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(_text(value))}</dd>" for key, value in values.items())
    return f'<dl class="plain">{items}</dl>'


def _text(value: Any) -> str:
    if value is None:
        return NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
