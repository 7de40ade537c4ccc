# SPDX-License-Identifier: Apache-2.0
"""Figures from hand-made recordings: token-weighted, without NaN, with an honest interval."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence

import pytest
from specclient.bench.metrics import arm_figures, distribution, totals
from specclient.bench.runner import Record, Recording

from specclient import Chunk, Completion, Counters, QueueFull
from specclient.bench import Comparison, Settings, document, render
from specclient.bench.speedup import pairs, speedup
from specclient.bench.workload import Prompt

PROMPT = Prompt("code-01", "code", "a secret prompt")


def answer(tpot_ms: float, tokens: int = 11, counters: Counters | None = None) -> Completion:
    """The first token after 50 ms, the last one after ``tokens - 1`` times ``tpot_ms`` more."""
    counters = counters or Counters(num_input_tokens=5, num_output_tokens=tokens)
    last_ns = round((50 + tpot_ms * (tokens - 1)) * 1e6)
    return Completion(
        "r",
        (
            Chunk("a", (1,), 0, 50_000_000),
            Chunk("b", tuple(range(tokens - 1)), 1, last_ns, "length", counters),
        ),
        sent_ns=0,
    )


def recording(baseline: Sequence[float], speculative: Sequence[float], block_size: int = 1) -> Recording:
    """One prompt for each two TPOTs."""
    made = Recording()
    for arm, values in (("baseline", baseline), ("speculative", speculative)):
        for position, tpot in enumerate(values):
            block = position // block_size
            drafted = Counters(5, 11, 4, 16, 7) if arm == "speculative" else Counters(5, 11, 11)
            made.records.append(Record(arm, block, position, PROMPT, answer(tpot, counters=drafted)))
            made.wall_s[arm, block] = 1.0
    return made


def test_a_distribution_interpolates_and_says_how_many() -> None:
    figures = distribution([4.0, None, 1.0, 3.0, 2.0], scale=10)
    assert figures is not None
    assert (figures.n, figures.mean, figures.p50, figures.min, figures.max) == (4, 25, 25, 10, 40)
    assert figures.p90 == pytest.approx(37)
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
    made = recording([10, 10, 10], [5, 5, 5])
    made.records.append(Record("baseline", 3, 3, PROMPT, answer(10)))  # its block was cut off
    made.records.append(Record("baseline", 3, 4, PROMPT, error=QueueFull("full")))
    figures = arm_figures(made, "baseline")
    assert figures["tokens_per_second"] == pytest.approx(11)
    assert (figures["requests"], figures["errors"]) == (4, {"QueueFull": 1})
    assert figures["tpot_ms"]["p50"] == pytest.approx(10)
    assert figures["acceptance_length"] is None


def test_an_arm_without_answers_has_no_figures_but_counts() -> None:
    figures = arm_figures(Recording(), "baseline")
    assert (figures["requests"], figures["tokens_per_second"], figures["ttft_ms"]) == (0, None, None)


def test_only_prompts_answered_in_both_arms_are_paired() -> None:
    made = recording([10, 20, 30], [5, 5])
    made.records.append(Record("speculative", 2, 2, PROMPT, error=QueueFull("full")))
    found = pairs(made, baseline="baseline", speculative="speculative")
    assert [pair.baseline.tpot for pair in found] == pytest.approx([0.010, 0.020])


def measured(baseline: Sequence[float], speculative: Sequence[float], block_size: int = 1):  # type: ignore[no-untyped-def]
    paired = pairs(
        recording(baseline, speculative, block_size), baseline="baseline", speculative="speculative"
    )
    return speedup(paired, lambda a: a.tpot, seed=0)


def test_the_speed_up_is_the_median_ratio_of_pairs() -> None:
    figures = measured([10, 20, 90], [5, 5, 30])
    assert figures.p50 == pytest.approx(3)
    assert figures.aggregate == pytest.approx(3)
    assert figures.ci95[0] == pytest.approx(2) and figures.ci95[1] == pytest.approx(4)
    assert figures.verdict == "faster"


@pytest.mark.parametrize(("gain", "verdict"), [(2.0, "faster"), (0.5, "slower"), (1.0, "inconclusive")])
def test_the_verdict_waits_for_the_interval(gain: float, verdict: str) -> None:
    generator = random.Random(1)
    baseline = [10 * generator.uniform(0.8, 1.25) for _ in range(40)]
    assert measured(baseline, [10 / gain] * 40).verdict == verdict


def test_one_block_is_no_evidence() -> None:
    figures = measured([10] * 8, [5] * 8, block_size=8)
    assert (figures.ci95, figures.verdict) == (None, "inconclusive")
    assert figures.p50 == pytest.approx(2)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """40 pairs with noise around 2.0: 95 % of 200 runs, give or take four standard errors."""
    generator = random.Random(7)
    hits = 0
    for _ in range(200):
        ratios = [2.0 * generator.lognormvariate(0, 0.1) for _ in range(40)]
        low, high = measured([10 * ratio for ratio in ratios], [10] * 40).ci95
        hits += low <= 2.0 <= high
    assert 0.88 <= hits / 200 <= 1.0


def test_nothing_to_compare_is_none_not_nan() -> None:
    assert measured([], []) is None
    report = document(Comparison(Settings()))
    json.dumps(report, allow_nan=False)
    assert report["speedup"]["p50"] is None and report["speedup"]["verdict"] == "inconclusive"
    assert (report["greedy_identical"], report["acceptance_length"]) == (None, None)


def test_the_document_has_the_promised_keys_and_no_prompt() -> None:
    report = document(Comparison(Settings(), recording([10, 10], [5, 5])))
    text = json.dumps(report, allow_nan=False)
    assert "secret" not in text
    assert report["schema_version"] == 1 and report["complete"] is True
    assert report["speedup"]["p50"] == pytest.approx(2)
    assert len(report["speedup"]["ci95"]) == 2
    assert report["acceptance_length"] == pytest.approx(1 + 7 / 4)
    assert report["draft_acceptance_rate"] == pytest.approx(7 / 16)
    assert report["baseline"]["tpot_ms"]["p50"] == pytest.approx(10)
    assert report["speculative"]["tpot_ms"]["p50"] == pytest.approx(5)
    assert (report["greedy_identical"], report["greedy"]) == (True, {"identical": 2, "total": 2})
    assert set(report["workload"]) == {"name", "licence", "sha256", "prompts"}
    assert {"argv", "versions", "server", "created_at"} <= set(report["provenance"])


def test_a_difference_in_one_token_is_reported() -> None:
    made = recording([10, 10], [5, 5])
    last = made.records[-1].completion
    assert last is not None
    other = Completion(last.request_id, (*last.chunks[:-1], Chunk("b", (9,), 1, 60_000_000)), 0)
    made.records[-1] = Record("speculative", 1, 1, PROMPT, other)
    report = document(Comparison(Settings(), made))
    assert (report["greedy_identical"], report["greedy"]) == (False, {"identical": 1, "total": 2})


def test_sampled_runs_are_not_expected_to_be_equal() -> None:
    from specclient import GenerationParameters

    settings = Settings(parameters=GenerationParameters(temperature=0.8))
    report = document(Comparison(settings, recording([10, 10], [5, 5])))
    assert (report["greedy_identical"], report["greedy"]) == (None, None)


def test_an_incomplete_run_says_so_everywhere() -> None:
    comparison = Comparison(Settings(), recording([10, 10], [5]), failure=KeyboardInterrupt())
    report = document(comparison)
    assert report["complete"] is False
    assert report["failure"] == {"type": "KeyboardInterrupt", "message": "interrupted"}
    assert "ended early" in report["warnings"][0]


def test_the_table_shows_every_figure_in_eighty_columns() -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(render(document(Comparison(Settings(), recording([1234, 1250], [500, 505])))))
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for words in ("baseline", "speculative", "1,242", "502.5", "speed-up 2.47x", "same tokens in 2 of 2"):
        assert words in text


def test_the_first_error_is_shown_as_it_is() -> None:
    from rich.console import Console

    made = recording([10], [5])
    made.records.append(Record("baseline", 1, 1, PROMPT, error=QueueFull("[/red] 100 %")))
    console = Console(record=True, file=io.StringIO(), width=100)
    console.print(render(document(Comparison(Settings(), made))))
    assert "baseline: 1 QueueFull; the first: [/red] 100 %" in console.export_text()
