# SPDX-License-Identifier: Apache-2.0
"""Figures from hand-made recordings: token-weighted, without NaN, with an honest interval."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict, TypeAdapter
from rich.console import Console

from specclient import Chunk, Completion, Counters, GenerationParameters, QueueFull
from specclient.bench import Outcome, Settings, document, render
from specclient.bench.acceptance import acceptance, steps, totals
from specclient.bench.document import Document
from specclient.bench.figures import distribution, run_document
from specclient.bench.speedup import pairs, speedup
from support import recordings
from support.recordings import answer, comparison, sample


def test_a_distribution_interpolates_and_says_how_many() -> None:
    figures = distribution([4.0, None, 1.0, 3.0, 2.0], scale=10)
    assert figures is not None
    assert [figures[key] for key in ("n", "mean", "p50", "min", "max")] == [4, 25, 25, 10, 40]  # type: ignore[literal-required]
    assert figures["p90"] == pytest.approx(37)
    assert distribution([None, None]) is None


def test_acceptance_is_weighted_by_tokens_not_by_requests() -> None:
    short = answer(
        1, counters=Counters(1, 2, num_rounds=1, total_draft_tokens=4, total_accepted_draft_tokens=0)
    )
    long = answer(
        1, counters=Counters(1, 50, num_rounds=9, total_draft_tokens=36, total_accepted_draft_tokens=36)
    )
    counters = totals([short, long])
    assert counters.draft_acceptance_rate == 36 / 40  # the mean of the two rates would be a half
    assert counters.acceptance_length == 1 + 36 / 10


def test_throughput_counts_tokens_of_complete_blocks_and_errors_stand_beside() -> None:
    run = comparison([10, 10, 10], []).runs[0]
    run.samples.append(sample(3, answer(10), block=3))  # its block was cut off
    run.samples.append(sample(4, error=QueueFull("full"), block=3))
    made = run_document(run, {}, None)
    assert made["figures"]["tokens_per_second"] == pytest.approx(11)
    assert made["figures"]["requests_per_second"] == pytest.approx(1)
    assert made["requests"] == {"succeeded": 4, "failed": 1, "outside_window": 0, "cut_off": 0}
    assert made["errors"] == {"QueueFull": 1} and made["first_error"] == "full"
    assert made["figures"]["tpot_ms"]["p50"] == pytest.approx(10)
    assert made["acceptance"]["length"] is None and made["goodput"] is None


def test_a_run_without_answers_has_no_figures() -> None:
    made = run_document(recordings.run("baseline", []), {"ttft": 1.0}, 2.0)
    assert made["requests"]["succeeded"] == 0 and made["figures"]["ttft_ms"] is None
    assert made["figures"]["tokens_per_second"] is None and made["cost_per_million_output_tokens"] is None
    assert made["goodput"] == {
        "limits_ms": {"ttft": 1.0},
        "good": 0,
        "share": None,
        "requests_per_second": None,
    }


def test_cost_follows_from_price_and_throughput() -> None:
    made = run_document(comparison([10, 10], []).runs[0], {}, gpu_hour_price=3.6)
    assert made["cost_per_million_output_tokens"] == pytest.approx(3.6 / (11 * 3600) * 1e6)


def test_goodput_needs_every_limit_and_counts_failures_against_it() -> None:
    run = comparison([10, 30], []).runs[0]
    run.samples.append(sample(2, error=QueueFull("full"), block=1))
    made = run_document(run, {"ttft": 60.0, "tpot": 20.0}, None)["goodput"]
    assert made is not None and (made["good"], made["share"]) == (1, pytest.approx(1 / 3))
    made = run_document(run, {"ttft": 40.0}, None)["goodput"]
    assert made is not None and made["good"] == 0


def rounds(*counts: tuple[int, int, int, int]) -> Completion:
    """One chunk for each (tokens, rounds, drafted, accepted) so far, 10 ms apart."""
    chunks = [
        Chunk("x", (), index, (index + 1) * 10_000_000, None, Counters(5, *count))
        for index, count in enumerate(counts)
    ]
    return Completion("r", tuple(chunks), sent_ns=0)


def test_acceptance_by_position_comes_from_chunks_of_one_round() -> None:
    made = acceptance([rounds((3, 1, 4, 2), (4, 2, 8, 2), (7, 4, 14, 3), (9, 5, 16, 5))])
    # The third chunk holds two rounds and is left out; the last draft had two tokens.
    assert made["attributed_rounds"] == 3 and made["rounds"] == 5
    assert made["by_position"] == [
        {"position": 1, "drafted": 3, "accepted": 2, "rate": 2 / 3},
        {"position": 2, "drafted": 3, "accepted": 2, "rate": 2 / 3},
        {"position": 3, "drafted": 2, "accepted": 0, "rate": 0},
        {"position": 4, "drafted": 2, "accepted": 0, "rate": 0},
    ]
    assert acceptance([rounds((3, 0, 0, 0))])["by_position"] is None


def test_tokens_of_one_chunk_are_nothing_apart() -> None:
    run = recordings.run(
        "speculative", [sample(0, rounds((3, 1, 4, 2), (6, 2, 8, 4), (7, 3, 12, 4)), block=0)]
    )
    figures = run_document(run, {}, None)["figures"]
    assert figures["itl_ms"]["n"] == 6 and figures["itl_ms"]["mean"] == pytest.approx(20 / 6)
    assert figures["itl_ms"]["max"] == pytest.approx(10) and figures["itl_ms"]["p50"] == 0
    assert figures["inter_chunk_ms"]["n"] == 2 and figures["inter_chunk_ms"]["p50"] == pytest.approx(10)
    assert figures["tokens_per_chunk"]["mean"] == pytest.approx(7 / 3)
    assert figures["tokens_per_second_per_user"]["p50"] == pytest.approx(6 / 0.020)


def test_chunks_without_counts_have_no_token_gaps() -> None:
    chunks = (Chunk("a", (), 0, 10), Chunk("b", (), 1, 20, "stop", Counters(5, 9)))
    assert [step.tokens for step in steps(Completion("r", chunks, 0))] == [None, None]
    figures = run_document(recordings.run("x", [sample(0, Completion("r", chunks, 0))]), {}, None)["figures"]
    assert (figures["itl_ms"], figures["tokens_per_chunk"]) == (None, None)
    assert figures["output_tokens"]["p50"] == 9


def test_only_prompts_answered_in_both_arms_are_paired() -> None:
    made = comparison([10, 20, 30], [5, 5])
    made.runs[1].samples.append(sample(2, error=QueueFull("full"), block=2))
    assert [pair.baseline.tpot for pair in pairs(*made.runs)] == pytest.approx([0.010, 0.020])


def measured(baseline: Sequence[float], speculative: Sequence[float], block_size: int = 1) -> Any:
    paired = pairs(*comparison(baseline, speculative, block_size).runs)
    return speedup(paired, lambda a: a.tpot, seed=0)


def test_the_speed_up_is_the_median_ratio_of_pairs() -> None:
    figures = measured([10, 20, 90], [5, 5, 30])
    assert figures["p50"] == pytest.approx(3)
    assert figures["aggregate"] == pytest.approx(3)
    assert figures["ci95"][0] == pytest.approx(2) and figures["ci95"][1] == pytest.approx(4)
    assert figures["verdict"] == "faster"


@pytest.mark.parametrize(("gain", "verdict"), [(2.0, "faster"), (0.5, "slower"), (1.0, "inconclusive")])
def test_the_verdict_waits_for_the_interval(gain: float, verdict: str) -> None:
    generator = random.Random(1)
    baseline = [10 * generator.uniform(0.8, 1.25) for _ in range(40)]
    assert measured(baseline, [10 / gain] * 40)["verdict"] == verdict


def test_one_block_is_no_evidence() -> None:
    figures = measured([10] * 8, [5] * 8, block_size=8)
    assert (figures["ci95"], figures["verdict"]) == (None, "inconclusive")
    assert figures["p50"] == pytest.approx(2)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """40 pairs with noise around 2.0: 95 % of 200 runs, give or take four standard errors."""
    generator = random.Random(7)
    hits = 0
    for _ in range(200):
        ratios = [2.0 * generator.lognormvariate(0, 0.1) for _ in range(40)]
        low, high = measured([10 * ratio for ratio in ratios], [10] * 40)["ci95"]
        hits += low <= 2.0 <= high
    assert 0.88 <= hits / 200 <= 1.0


def checked(outcome: Outcome) -> Document:
    """The document, which holds exactly what its type says and nothing that JSON has no number for."""
    report = document(outcome)
    json.dumps(report, allow_nan=False)
    Document.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    TypeAdapter(Document).validate_python(report)
    return report


def test_nothing_to_compare_is_none_not_nan() -> None:
    assert measured([], [])["p50"] is None
    report = checked(Outcome("compare", Settings()))
    assert report["speedup"]["p50"] is None and report["speedup"]["verdict"] == "inconclusive"
    assert (report["greedy_identical"], report["acceptance_length"]) == (None, None)
    report = checked(comparison([], []))
    assert report["speedup"]["p50"] is None and report["timelines"] == []


def test_the_document_has_the_promised_keys_and_no_prompt() -> None:
    report = checked(comparison([10, 10], [5, 5]))
    assert "secret" not in json.dumps(report)
    assert report["schema_version"] == 2 and report["complete"] is True
    assert report["speedup"]["p50"] == pytest.approx(2)
    assert len(report["speedup"]["ci95"]) == 2
    assert report["acceptance_length"] == pytest.approx(1 + 7 / 4)
    assert report["draft_acceptance_rate"] == pytest.approx(7 / 16)
    assert report["baseline"]["tpot_ms"]["p50"] == pytest.approx(10)
    assert report["speculative"]["tpot_ms"]["p50"] == pytest.approx(5)
    assert report["greedy_identical"] is True
    assert report["comparisons"][0]["greedy"] == {"identical": 2, "total": 2}
    assert [timeline["arm"] for timeline in report["timelines"]] == ["baseline", "speculative"]
    assert [row["run"] for row in report["requests"]] == [0, 0, 1, 1]


def test_the_example_for_renderers_is_a_document() -> None:
    Document.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    example = Path(__file__).parents[3] / "support" / "bench_report.json"
    TypeAdapter(Document).validate_json(example.read_text())


def test_a_difference_in_one_token_is_reported() -> None:
    made = comparison([10, 10], [5, 5])
    last = made.runs[1].samples[-1].completion
    assert last is not None
    other = Completion(last.request_id, (*last.chunks[:-1], Chunk("b", (9,), 1, 60_000_000)), 0)
    made.runs[1].samples[-1].completion = other
    report = checked(made)
    assert report["greedy_identical"] is False
    assert report["comparisons"][0]["greedy"] == {"identical": 1, "total": 2}


def test_sampled_runs_are_not_expected_to_be_equal() -> None:
    settings = Settings(parameters=GenerationParameters(temperature=0.8))
    report = checked(comparison([10, 10], [5, 5], settings=settings))
    assert (report["greedy_identical"], report["comparisons"][0]["greedy"]) == (None, None)


def test_an_incomplete_run_says_so_everywhere() -> None:
    made = comparison([10, 10], [5])
    made.failure = KeyboardInterrupt()
    report = checked(made)
    assert report["complete"] is False
    assert report["failure"] == {"type": "KeyboardInterrupt", "message": "interrupted"}
    assert "ended early" in report["warnings"][0]


def shown(report: Document, width: int = 80) -> str:
    console = Console(record=True, file=io.StringIO(), width=width)
    console.print(render(report))
    return console.export_text()


def test_the_table_shows_every_figure_in_eighty_columns() -> None:
    text = shown(document(comparison([1234, 1250], [500, 505])))
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for words in ("baseline", "speculative", "1,242", "502.5", "speed-up 2.47x", "same tokens in 2 of 2"):
        assert words in text


def test_the_first_error_is_shown_as_it_is() -> None:
    made = comparison([10], [5])
    made.runs[0].samples.append(sample(1, error=QueueFull("[/red] 100 %"), block=1))
    assert "baseline: 1 QueueFull; the first: [/red] 100 %" in shown(document(made), width=100)
