# SPDX-License-Identifier: Apache-2.0
"""The charts of a report, each with a table that says the same. None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from specclient.bench.document import Comparison, Distribution, Document, Load, Run
from specclient.bench.page import numbers
from specclient.bench.page.numbers import load_axis, load_cell, load_head, load_name, number, percent
from specclient.bench.page.svg import MOST_TEXTS, Axis, Point, Series, categories, line_chart, linear
from specclient.bench.page.table import Table

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with its heading, an explanation and its data as a table."""

    key: str
    title: str
    note: str
    svg: str
    table: Table
    long: bool = False
    """Whether the table is folded on a screen."""


def arms(document: Document) -> dict[str, int]:
    """Each arm and the number of its style, in the order of the report."""
    names = dict.fromkeys(run["arm"] for run in document["runs"])
    return {name: number for number, name in enumerate(names)}


def latency_by_throughput(document: Document) -> Chart | None:
    """Request latency against output tokens per second; one line per arm through its load points."""
    styles = arms(document)
    shown = [
        run
        for run in document["runs"]
        if run["figures"]["latency_ms"] and run["figures"]["tokens_per_second"] is not None
    ]
    if not shown:
        return None
    labels = _labels({run["load"]["value"] for run in shown})
    series = [
        Series(
            arm,
            style,
            tuple(
                Point(
                    run["figures"]["tokens_per_second"] or 0, _p50_s(run), label=labels[run["load"]["value"]]
                )
                for run in sorted(_of(arm, shown), key=lambda run: run["load"]["value"])
            ),
        )
        for arm, style in styles.items()
        if _of(arm, shown)
    ]
    x = linear("output tokens per second, all requests", [p.x for one in series for p in one.points])
    y = linear("request latency, median (s)", [p.y for one in series for p in one.points])
    title = "Latency against throughput"
    note = (
        "Down and to the right is better. The number beside a point is its load: "
        f"{load_axis(run['load'] for run in shown)}."
    )
    head = load_head(run["load"] for run in shown)
    table = Table(
        title,
        (head, "arm", "tokens per s", "requests per s", "latency p50 (s)", "latency p99 (s)"),
        [
            (
                load_cell(run["load"], head),
                run["arm"],
                number(run["figures"]["tokens_per_second"]),
                number(run["figures"]["requests_per_second"]),
                number(_p50_s(run)),
                number(_seconds(run["figures"]["latency_ms"], "p99")),
            )
            for run in shown
        ],
        text_columns=2,
    )
    return Chart("latency", title, note, line_chart("latency", title, note, series, x=x, y=y), table)


def speedup_by_load(document: Document) -> Chart | None:
    """The paired speed-up of the time per output token at each load point, with its interval."""
    shown = [c for c in document["comparisons"] if c["tpot"]["p50"] is not None]
    if not shown:
        return None
    styles = arms(document)
    loads = _loads(comparison["load"] for comparison in shown)
    candidates = dict.fromkeys(comparison["candidate"] for comparison in shown)
    written = len(candidates) == 1 and len(loads) <= MOST_TEXTS
    series = [
        Series(
            name,
            styles.get(name, 0),
            tuple(
                Point(
                    # Side by side, so that no interval hides another.
                    loads.index(c["load"]) + 0.08 * (place - (len(candidates) - 1) / 2),
                    c["tpot"]["p50"] or 0,
                    _pair(c["tpot"]["ci95"]),
                    f"{c['tpot']['p50']:.2f}×" if written else "",
                )
                for c in shown
                if c["candidate"] == name
            ),
        )
        for place, name in enumerate(candidates)
    ]
    tops = [max([point.y, *(point.interval or ())]) for one in series for point in one.points]
    title = "Speed-up by load"
    note = (
        f"Time per output token of {shown[0]['baseline']} ÷ that of the candidate: median of pairs of the "
        "same prompt, and its 95 % interval. Above the line at 1 the candidate is faster; an interval that "
        "includes 1 leaves it open."
    )
    x = categories(load_axis(loads), [f"{load['value']:.4g}" for load in loads])
    y = linear("speed-up (×)", [1.0, *(1.15 * top for top in tops)])  # room for the texts
    svg = line_chart("speedup", title, note, series, x=x, y=y, reference=1.0)
    return Chart("speedup", title, note, svg, _speedup_table(title, shown))


def _speedup_table(title: str, comparisons: Sequence[Comparison]) -> Table:
    head = load_head(c["load"] for c in comparisons)
    heads = [head, "candidate", "verdict", "speed-up", "95 % interval", "pairs"]
    heads += ["of whole requests", "of tokens per s", "ΔTTFT (ms)", "same tokens"]
    rows = [
        (
            load_cell(c["load"], head),
            c["candidate"],
            c["tpot"]["verdict"],
            f"{number(c['tpot']['p50'], 2)}×",
            numbers.interval(c["tpot"]["ci95"]),
            str(c["tpot"]["pairs"]),
            f"{number(c['latency']['p50'], 2)}×",
            f"{number(c['throughput'], 2)}×",
            number(c["ttft_delta_ms"]["p50"]),
            numbers.NONE if c["greedy"] is None else f"{c['greedy']['identical']} of {c['greedy']['total']}",
        )
        for c in comparisons
    ]
    return Table(title, heads, rows, text_columns=3)


def acceptance_by_position(document: Document) -> Chart | None:
    """How often the draft token at each position was accepted, over all load points of an arm."""
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for run in document["runs"]:
        for entry in run["acceptance"]["by_position"] or ():
            positions = found.setdefault(run["arm"], {})
            drafted, accepted = positions.get(entry["position"], (0, 0))
            positions[entry["position"]] = drafted + entry["drafted"], accepted + entry["accepted"]
    rates = {
        arm: [(position, d, a) for position, (d, a) in sorted(positions.items()) if d]
        for arm, positions in found.items()
    }
    rates = {arm: entries for arm, entries in rates.items() if entries}
    if not rates:
        return None
    styles = arms(document)
    last = max(position for entries in rates.values() for position, _, _ in entries)
    x = categories("draft position", [str(position) for position in range(1, last + 1)])
    y = Axis("accepted (%)", 0, 100, tuple((float(v), str(v)) for v in range(0, 101, 25)))
    series = [
        Series(arm, styles[arm], tuple(Point(p - 1.0, 100 * a / d) for p, d, a in entries))
        for arm, entries in rates.items()
    ]
    title = "Acceptance by position"
    note = (
        "Share of the rounds that drafted a token at this position in which it was accepted, over all load "
        "points. It falls with the position because a token can be accepted only where all before it were."
    )
    table = Table(
        title,
        ("arm", "position", "drafted", "accepted", "share"),
        [
            (arm, str(position), f"{drafted:,}", f"{accepted:,}", percent(accepted / drafted))
            for arm, entries in rates.items()
            for position, drafted, accepted in entries
        ],
        text_columns=1,
    )
    return Chart("acceptance", title, note, line_chart("acceptance", title, note, series, x=x, y=y), table)


def percentile_curves(document: Document) -> list[Chart]:
    """One chart for each of TTFT, TPOT and request latency, at the first and the last load point."""
    return [
        chart
        for key, title, unit, figure in (
            ("ttft", "Time to first token", "ms", lambda run: run["figures"]["ttft_ms"]),
            ("tpot", "Time per output token", "ms", lambda run: run["figures"]["tpot_ms"]),
            ("request", "Request latency", "ms", lambda run: run["figures"]["latency_ms"]),
        )
        if (chart := _percentiles(document, f"p-{key}", f"{title}, percentiles", unit, figure)) is not None
    ]


def _percentiles(
    document: Document, key: str, title: str, unit: str, figure: Callable[[Run], Distribution | None]
) -> Chart | None:
    loads = _loads(run["load"] for run in document["runs"])
    ends = loads[:1] + loads[1:][-1:]
    styles = arms(document)
    shown = [
        (run, values)
        for run in document["runs"]
        if run["load"] in ends and (values := figure(run)) is not None
    ]
    if not shown:
        return None
    # A normal distribution is a straight line on this axis, and the tail has room.
    quantile = NormalDist().inv_cdf
    ticks = tuple((quantile(p / 100), str(p)) for p in PERCENTILES if p not in (5, 95))
    x = Axis("percentile of requests", quantile(0.008), quantile(0.992), ticks)
    series = [
        Series(
            run["arm"] + (f", {load_name(run['load'])}" if len(ends) > 1 else ""),
            styles[run["arm"]],
            tuple(Point(quantile(p / 100), _percentile(values, p)) for p in PERCENTILES),
            dashed=run["load"] == ends[-1] and len(ends) > 1,
        )
        for run, values in shown
    ]
    y = linear(unit, [point.y for one in series for point in one.points])
    counts = sorted(values["n"] for _, values in shown)
    note = (
        f"The value that this share of the requests stayed below; {counts[0]:,} requests or more per line."
        + (" Of the sweep, the first and the last load point." if len(loads) > 2 else "")
    )
    head = load_head(run["load"] for run, _ in shown)
    heads = (head, "arm", "n", "mean", "min", *(f"p{p}" for p in PERCENTILES), "max")
    rows = [
        (
            load_cell(run["load"], head),
            run["arm"],
            f"{values['n']:,}",
            number(values["mean"]),
            number(values["min"]),
            *(number(_percentile(values, p)) for p in PERCENTILES),
            number(values["max"]),
        )
        for run, values in shown
    ]
    table = Table(f"{title} ({unit})", heads, rows, text_columns=2)
    return Chart(key, title, note, line_chart(key, title, note, series, x=x, y=y), table)


def _percentile(values: Distribution, percentile: int) -> float:
    return float(values[f"p{percentile}"])  # type: ignore[literal-required]


def _loads(loads: Iterable[Load]) -> list[Load]:
    """The different load points in ascending order."""
    found: list[Load] = []
    for load in loads:
        if load not in found:
            found.append(load)
    return sorted(found, key=lambda load: (load["kind"], load["arrival"] or "", load["value"]))


def _labels(loads: Collection[float]) -> dict[float, str]:
    """What is written beside the points: each load, or of too many the first and the last."""
    written = loads if len(loads) <= MOST_TEXTS else (min(loads), max(loads))
    return {load: f"{load:.4g}" if load in written else "" for load in loads}


def _of(arm: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run["arm"] == arm]


def _pair(value: list[float] | None) -> tuple[float, float] | None:
    return None if value is None else (value[0], value[1])


def _p50_s(run: Run) -> float:
    return _seconds(run["figures"]["latency_ms"], "p50") or 0.0


def _seconds(values: Distribution | None, key: str) -> float | None:
    return None if values is None else float(values[key]) / 1e3  # type: ignore[literal-required]
