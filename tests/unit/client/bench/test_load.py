# SPDX-License-Identifier: Apache-2.0
"""Load points as text, schedules, limits and the search for a rate."""

from __future__ import annotations

import itertools
import statistics

import pytest

from specclient import InvalidRequest
from specclient.bench import Concurrency, Rate, RateSearch, Replay, Settings, Stability
from specclient.bench.load import numbers
from specclient.bench.slo import limits
from specclient.bench.window import agree


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("4", [4]),
        ("1,2,4,8", [1, 2, 4, 8]),
        ("1:32:x2", [1, 2, 4, 8, 16, 32]),
        ("2:10:4", [2, 6, 10]),
        ("1:3", [1, 2, 3]),
        ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),
        ("1,4:8:x2", [1, 4, 8]),
    ],
)
def test_lists_and_ranges(text: str, values: list[float]) -> None:
    assert numbers(text) == pytest.approx(values)


@pytest.mark.parametrize(
    "text", ["", "a", "1:2:3:4", "4:1", "1:8:x1", "1:8:0", "0:8", "1:inf", "nan", "1:1000"]
)
def test_what_is_no_list_of_numbers_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        numbers(text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "load", [Rate(50, "constant"), Rate(50), Rate(50, "gamma", 0.25), Rate(50, "gamma", 4)]
)
def test_a_schedule_keeps_its_rate_and_its_law(load: Rate) -> None:
    due = list(itertools.islice(load.arrivals(seed=1), 20_001))
    assert due == list(itertools.islice(load.arrivals(seed=1), 20_001)) and due[0] == 0
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    variation = statistics.stdev(gaps) / statistics.mean(gaps)
    expected = 0.0 if load.arrival == "constant" else load.burstiness**-0.5
    assert variation == pytest.approx(expected, rel=0.05, abs=1e-6)


def test_a_replay_is_the_trace() -> None:
    load = Replay((0.0, 0.5, 2.0))
    assert list(load.arrivals(seed=9)) == [0.0, 0.5, 2.0]
    assert load.facts() == {"kind": "rate", "value": 1.0, "arrival": "replay"}
    assert Replay(()).facts()["value"] == 0


def test_limits_take_the_names_of_other_tools() -> None:
    assert limits(["ttft:200", "itl:20", "e2el:5000"]) == {"ttft": 200, "tpot": 20, "latency": 5000}
    for text in ("ttft", "ttft:", "ttft:-1", "ttft:nan", "speed:3", "ttft:inf"):
        with pytest.raises(InvalidRequest):
            limits([text])


@pytest.mark.parametrize(("low", "high", "true"), [(1, 64, 23.0), (1, 64, 1.0), (0.5, 8, 100.0), (3, 3, 5.0)])
def test_the_search_finds_the_highest_rate_within_its_precision(low: float, high: float, true: float) -> None:
    search = RateSearch(low, high)
    while (rate := search.next()) is not None:
        search.record(rate, 1.0, kept=rate <= true)
    best = min(true, high)
    assert search.kept is not None and best / 1.06 <= search.kept <= best
    assert len(search.steps) <= 14


def test_a_search_whose_lowest_rate_is_too_much_finds_none() -> None:
    search = RateSearch(2, 64)
    assert search.next() == 2
    search.record(2, 0.5, kept=False)
    assert search.next() is None and search.kept is None
    with pytest.raises(InvalidRequest):
        RateSearch(0, 1)


def test_three_intervals_must_agree_in_rate_and_latency() -> None:
    rule = Stability(percentage=10)
    assert agree([(50, 9), (10, 1), (10.5, 1.05), (9.8, 1)], rule)
    assert not agree([(10, 1), (10, 1)], rule)
    assert not agree([(10, 1), (10, 1), (12, 1)], rule)
    assert not agree([(10, 1), (10, 1), (10, 1.3)], rule)
    assert not agree([(0, 0)] * 3, rule)


def test_contradictions_are_refused() -> None:
    for wrong in (
        {"request_count": 5, "duration_s": 1.0},
        {"request_count": 0},
        {"loads": ()},
        {"duration_s": 0.0},
        {"loads": (Replay((0.0,)),)},
    ):
        with pytest.raises(InvalidRequest):
            Settings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        Concurrency(0)
    with pytest.raises(InvalidRequest):
        Rate(-1)
