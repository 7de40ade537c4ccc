# SPDX-License-Identifier: Apache-2.0
"""The page and the CSV say what the document says, whatever is missing in it."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specclient.bench import csvfile, saved
from specclient.bench.page import charts, html, numbers, svg, timeline

EXAMPLE = Path(__file__).parents[3] / "support" / "bench_report.json"
VOID = {"meta", "link", "line", "circle", "polygon", "polyline", "rect"}


@pytest.fixture
def report() -> Any:
    return json.loads(EXAMPLE.read_text(encoding="utf-8"))


class Parsed(HTMLParser):
    """Checks nesting; collects ids, texts and what refers to elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "action", "style") or name.startswith("on"):
                self.references.append(f"{name}={value}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def test_every_chart_has_a_title_a_description_and_a_table(report: Any) -> None:
    page = Parsed(html(report))
    assert len(page.ids) == len(set(page.ids))
    keys = ("speedup", "latency", "acceptance", "rounds", "p-ttft", "p-tpot", "p-request")
    for key in keys:
        assert {key, f"{key}-title", f"{key}-desc"} <= set(page.ids)
    assert page.count["svg"] == page.count["desc"] == page.count["details"] == len(keys)
    assert page.count["table"] == page.count["caption"] >= len(keys) + 2


def test_the_page_refers_to_nothing_outside_and_runs_nothing(report: Any) -> None:
    text = html(report)
    page = Parsed(text)
    assert page.references == ["href=data:,"] and "script" not in page.count
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_the_figures_of_the_document_are_on_the_page(report: Any) -> None:
    page = Parsed(html(report)).text
    first = report["comparisons"][0]["tpot"]
    assert f"{first['p50']:.2f}×" in page and f"{first['ci95'][0]:.2f} to {first['ci95'][1]:.2f}" in page
    assert "inconclusive" in page and report["workload"]["sha256"] in page
    for run in report["runs"]:
        assert numbers.number(run["figures"]["latency_ms"]["p99"]) in page
    for warning in report["warnings"]:
        assert warning in page
    for text in report["definitions"].values():
        assert text in page


def test_an_incomplete_report_says_so_at_the_top(report: Any) -> None:
    report["complete"] = False
    report["failure"] = {"type": "ConnectError", "message": "nothing answers"}
    text = html(report)
    assert text.index("Incomplete") < text.index("<h2>") and "ConnectError: nothing answers" in text


def test_a_report_without_any_figure_is_a_page_too(report: Any) -> None:
    for run in report["runs"]:
        run["figures"] = dict.fromkeys(run["figures"])
        run["acceptance"] |= {"by_position": None, "length": None, "rate": None}
        run["server"] = run["goodput"] = None
    report["comparisons"], report["timelines"] = [], []
    assert "svg" not in Parsed(html(report)).count
    report["runs"] = []
    assert "Nothing was measured" in Parsed(html(report)).text
    assert len(csvfile.csv_text(report).splitlines()) == 1


def test_text_of_the_document_is_never_markup(report: Any) -> None:
    report["warnings"] = ["<script>alert(1)</script>"]
    for run in report["runs"]:
        run["arm"] = run["arm"].replace("baseline", '"><img src=x onerror=alert(1)>')
    report["provenance"]["argv"] = ["specbuild", "</style><script>"]
    page = Parsed(html(report))
    assert not {"script", "img"} & set(page.count) and "<script>alert(1)</script>" in page.text


def test_a_synthetic_pair_is_called_synthetic(report: Any) -> None:
    assert "synthetic" not in Parsed(html(report)).text
    report["pair"] = {"alpha": 0.987}
    page = Parsed(html(report)).text
    assert "The pair is synthetic" in page and "0.987" in page


def test_errors_are_told_above_the_figures(report: Any) -> None:
    report["runs"][0] |= {"errors": {"QueueFull": 3}, "first_error": "too many"}
    text = html(report)
    assert text.index("3 QueueFull. The first: too many") < text.index("<h2>")


def test_a_column_without_any_value_is_left_out(report: Any) -> None:
    assert "cost per M tokens" in html(report)
    for run in report["runs"]:
        run["cost_per_million_output_tokens"] = None
    text = html(report)
    assert "cost per M tokens" not in text
    for row in re.findall("<tr>.*?</tr>", text):
        assert row.count("<th") + row.count("<td") >= 3


def test_the_search_for_a_rate_lists_its_steps(report: Any) -> None:
    report["slo"] = {
        "arm": "speculative",
        "limits_ms": {"ttft": 200.0},
        "share": 0.99,
        "highest_rate": 3.5,
        "steps": [{"rate": 4.0, "share": 0.5, "kept": False}, {"rate": 3.5, "share": None, "kept": True}],
    }
    page = Parsed(html(report)).text
    assert "ttft ≤ 200 ms" in page and "missed" in page and "3.50" in page


def test_positions_are_summed_over_the_load_points(report: Any) -> None:
    runs = [run for run in report["runs"] if run["arm"] == "speculative"]
    first = [run["acceptance"]["by_position"][0] for run in runs]
    chart = charts.acceptance_by_position(report)
    assert chart is not None
    assert chart.table.rows[0][2:4] == (
        f"{sum(entry['drafted'] for entry in first):,}",
        f"{sum(entry['accepted'] for entry in first):,}",
    )


def test_the_curve_of_a_sweep_follows_the_load_whatever_the_order_of_the_runs(report: Any) -> None:
    expected = charts.latency_by_throughput(report)
    shuffled = copy.deepcopy(report)
    shuffled["runs"] = shuffled["runs"][2:] + shuffled["runs"][:2]
    found = charts.latency_by_throughput(shuffled)
    assert expected is not None and found is not None
    assert re.findall("<polyline.*?>", expected.svg) == re.findall("<polyline.*?>", found.svg)


def test_rounds_are_drawn_to_scale(report: Any) -> None:
    chart = timeline.rounds(report)
    assert chart is not None
    (line,) = [line for line in report["timelines"] if line["arm"] == "speculative"]
    bars = re.findall(
        r'<rect x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)" class="arm-1 bar"', chart.svg
    )
    heights = [float(height) for height in bars]
    tokens = [chunk["tokens"] for chunk in line["chunks"]]
    assert len(heights) == len(tokens)
    for height, count in zip(heights, tokens, strict=True):
        assert height / heights[0] == pytest.approx(count / tokens[0], rel=0.02)
    line["chunks"][0]["tokens"] = None
    assert "chunks in" in html(report)


@given(st.lists(st.floats(0, 1e12, allow_nan=False), min_size=1, max_size=8))
def test_an_axis_covers_its_values_with_a_few_round_ticks(values: list[float]) -> None:
    axis = svg.linear("x", values)
    assert axis.low == 0 and axis.high >= max(values) * (1 - 1e-9)
    assert 3 <= len(axis.ticks) <= 7 and axis.ticks[-1][0] == axis.high
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)


def test_numbers_have_three_significant_digits() -> None:
    assert [numbers.number(v) for v in (None, 0.0, 0.1234, 1.234, 12.34, 123.4, 12345.6, float("nan"))] == [
        "–",
        "0",
        "0.123",
        "1.23",
        "12.3",
        "123",
        "12,346",
        "–",
    ]


def test_the_csv_has_a_line_per_run_with_every_figure(report: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(csvfile.csv_text(report))))
    assert len(rows) == len(report["runs"]) and list(rows[0]) == csvfile.columns()
    for row, run in zip(rows, report["runs"], strict=True):
        assert (row["arm"], float(row["load_value"])) == (run["arm"], run["load"]["value"])
        for name, value in run["figures"].items():
            if isinstance(value, dict):
                for statistic, number in value.items():
                    assert float(row[f"{name}_{statistic}"]) == number
        assert int(row["requests_failed"]) == run["requests"]["failed"]
    assert rows[0]["speedup_p50"] == "" and rows[0]["schedule_lag_ms_p50"] == ""
    assert float(rows[1]["speedup_p50"]) == report["comparisons"][0]["tpot"]["p50"]
    assert rows[1]["speedup_verdict"] == "faster"


def test_a_saved_report_is_read_whole(tmp_path: Path, report: Any) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(report))
    assert saved.read(file) == report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: "{", "not JSON"),
        (lambda r: "[]", "schema version 2: None"),
        (lambda r: json.dumps({**r, "schema_version": 1}), "schema version 2: 1"),
        (lambda r: json.dumps({**r, "runs": [{}]}), r"runs\.0\.arm"),
        (lambda r: json.dumps({**r, "requests_omitted": float("nan")}), "NaN is no JSON number"),
    ],
)
def test_what_is_no_report_is_refused_with_its_place(
    tmp_path: Path, report: Any, change: Any, message: str
) -> None:
    file = tmp_path / "r.json"
    file.write_text(change(report))
    with pytest.raises(saved.ReportError, match=message) as caught:
        saved.read(file)
    assert caught.value.remedy
    with pytest.raises(saved.ReportError, match="No such file"):
        saved.read(tmp_path / "none.json")
