# SPDX-License-Identifier: Apache-2.0
"""A report's document as tables for the terminal, in 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from specclient.bench.document import Comparison, Distribution, Document, Load, Run, ServerModel, Speedup

ROWS = (
    ("Time To First Token (ms)", "ttft_ms"),
    ("Time Per Output Token (ms)", "tpot_ms"),
    ("Inter-Token Latency (ms)", "itl_ms"),
    ("Inter-Chunk Latency (ms)", "inter_chunk_ms"),
    ("Request Latency (ms)", "latency_ms"),
    ("Schedule Lag (ms)", "schedule_lag_ms"),
    ("Tokens Per Chunk", "tokens_per_chunk"),
    ("Output Sequence Length", "output_tokens"),
)
COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")
PAIRED = ("p50", "p95", "p99")
NAME = 26


def render(report: Document) -> RenderableType:
    """What a person wants to know first."""
    parts: list[RenderableType] = []
    for runs in _by_load(report["runs"]) if report["slo"] is None else ():
        if len(runs) == 2:
            parts += [_pair(runs), Text()]
        else:
            parts += [part for run in runs for part in (_single(run), Text())]
    if len(report["runs"]) > 2:
        parts += [_overview(report), Text()]
    return Group(*parts, *_sentences(report))


def _by_load(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs of one load point, which stand together."""
    group: list[Run] = []
    for run in runs:
        if group and (run["load"] != group[0]["load"] or run["arm"] in {other["arm"] for other in group}):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def _table(title: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        title=title,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("Statistic", no_wrap=True, width=NAME)
    return table


def _pair(runs: Sequence[Run]) -> Table:
    table = _table(load_name(runs[0]["load"]))
    for run in runs:
        for percentile in PAIRED:
            title = run["arm"][:18] if percentile == "p50" else ""
            table.add_column(f"{title}\n{percentile}", justify="right", no_wrap=True)
    for title, key in ROWS:
        found = [run["figures"][key] for run in runs]  # type: ignore[literal-required]
        if any(figures is not None for figures in found):
            table.add_row(title, *(_cell(figures, p) for figures in found for p in PAIRED))
    for title, key in RATES:
        cells = [number(run["figures"][key]) for run in runs]  # type: ignore[literal-required]
        table.add_row(title, cells[0], "", "", cells[1], "", "")
    return table


RATES = (
    ("Output Tokens Per Second", "tokens_per_second"),
    ("Requests Per Second", "requests_per_second"),
)


def _single(run: Run) -> Table:
    table = _table(f"{run['arm']}, {load_name(run['load'])}, {run['requests']['succeeded']} requests")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for title, key in ROWS:
        figures = run["figures"][key]  # type: ignore[literal-required]
        if figures is not None:
            table.add_row(title, *(_cell(figures, column) for column in COLUMNS))
    for title, key in RATES:
        table.add_row(title, number(run["figures"][key]))  # type: ignore[literal-required]
    return table


def _overview(report: Document) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for name in ("load", "arm", "req/s", "tok/s", "TTFT p50", "TPOT p50", "p99 latency", "speed-up"):
        table.add_column(name, justify="left" if name in {"load", "arm"} else "right", no_wrap=True)
    for run in report["runs"]:
        figures = run["figures"]
        table.add_row(
            load_name(run["load"]),
            run["arm"][:12],
            number(figures["requests_per_second"], 2),
            number(figures["tokens_per_second"]),
            _cell(figures["ttft_ms"], "p50"),
            _cell(figures["tpot_ms"], "p50"),
            _cell(figures["latency_ms"], "p99"),
            _gain(run, report["comparisons"]),
        )
    return table


def _gain(run: Run, comparisons: Sequence[Comparison]) -> str:
    for found in comparisons:
        if found["candidate"] == run["arm"] and found["load"] == run["load"] and found["tpot"]["p50"]:
            return f"{found['tpot']['p50']:.2f}x"
    return ""


def _sentences(report: Document) -> Iterator[Text]:
    for run in report["runs"]:
        place = run["arm"] if len(report["runs"]) <= 2 else f"{run['arm']}, {load_name(run['load'])}"
        if run["errors"]:
            counts = ", ".join(f"{count} {kind}" for kind, count in run["errors"].items())
            yield Text(f"{place}: {counts}; the first: {run['first_error']}", style="red")
        yield from _facts(place, run)
    for found in report["comparisons"]:
        yield from _compared(found, several=len(report["comparisons"]) > 1)
    slo = report["slo"]
    if slo is not None:
        limits = ", ".join(f"{name} {limit:g} ms" for name, limit in slo["limits_ms"].items())
        found_rate = "none" if slo["highest_rate"] is None else f"{slo['highest_rate']:.3g} requests/s"
        yield Text(
            f"highest rate at which {slo['share']:.0%} of the requests keep {limits}: {found_rate}",
            style="bold",
        )
    for warning in report["warnings"]:
        yield Text(f"note: {warning}", style="yellow")


def _facts(place: str, run: Run) -> Iterator[Text]:
    acceptance, goodput = run["acceptance"], run["goodput"]
    if acceptance["draft_tokens"]:
        positions = " ".join(
            f"{p['rate']:.2f}" for p in acceptance["by_position"] or [] if p["rate"] is not None
        )
        yield Text(
            f"{place}: acceptance length {number(acceptance['length'], 2)}, draft acceptance rate "
            f"{number(acceptance['rate'], 3)}" + (f", by position {positions}" if positions else "")
        )
    if goodput is not None:
        yield Text(
            f"{place}: goodput {number(goodput['requests_per_second'], 2)} requests/s, "
            f"{(goodput['share'] or 0):.0%} of the requests"
        )
    if run["cost_per_million_output_tokens"] is not None:
        yield Text(f"{place}: {number(run['cost_per_million_output_tokens'], 2)} per million output tokens")
    pair = [model for model in run["server"] or [] if model["role"] in {"draft", "target"}]
    if any(model["role"] == "draft" for model in pair):
        shown = [_model(model) for model in pair]
        yield Text(f"{place}: in the server {', '.join(shown)}", style="dim")


def _model(model: ServerModel) -> str:
    return f"{model['model']} {model['busy_s']:.2f} s in {model['executions']} executions"


def _compared(found: Comparison, *, several: bool) -> Iterator[Text]:
    place = f"{load_name(found['load'])}, {found['candidate']}: " if several else ""
    delta, same = found["ttft_delta_ms"]["p50"], found["greedy"]
    facts = f"{place}ΔTTFT {number(delta)} ms"
    if same is not None:
        facts += f", same tokens in {same['identical']} of {same['total']} pairs"
    yield Text(facts, style="yellow" if same is not None and same["identical"] < same["total"] else "")
    yield _verdict(place, found["tpot"])


def _verdict(place: str, figures: Speedup) -> Text:
    if figures["p50"] is None:
        return Text(f"{place}speed-up: not measured", style="bold yellow")
    interval = (
        "no interval"
        if figures["ci95"] is None
        else f"95 % CI {figures['ci95'][0]:.2f} to {figures['ci95'][1]:.2f}"
    )
    style = {"faster": "bold green", "slower": "bold red", "inconclusive": "bold yellow"}[figures["verdict"]]
    return Text(
        f"{place}speed-up {figures['p50']:.2f}x ({interval}, {figures['pairs']} pairs): {figures['verdict']}",
        style=style,
    )


def load_name(load: Load) -> str:
    """A load point in words."""
    if load["kind"] == "concurrency":
        return f"concurrency {load['value']:g}"
    return f"{load['value']:.3g} requests/s"


def _cell(figures: Distribution | None, column: str) -> str:
    return number(None if figures is None else figures[column])  # type: ignore[literal-required]


def number(value: float | None, digits: int = 1) -> str:
    """A number for people; a dash for what is undefined."""
    if value is None:
        return "–"
    return f"{value:,.{digits if abs(value) < 1000 else 0}f}"
