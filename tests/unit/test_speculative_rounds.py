# SPDX-License-Identifier: Apache-2.0
"""How much a round asks for, and what an answer means."""

from __future__ import annotations

from typing import Any

import pytest

from support.triton import model_module

rounds = model_module("speculative", "rounds")
Round, OPENING = rounds.Round, rounds.OPENING


def text(max_tokens: int = 20, **more: Any) -> Any:
    return rounds.Text([100, 101], max_tokens, **more)


@pytest.mark.parametrize(
    ("remaining", "draft_length", "expected"),
    [
        (20, 5, Round(5, 6)),
        (6, 5, Round(5, 6)),
        (5, 5, Round(4, 5)),
        (2, 5, Round(1, 2)),
        (1, 5, Round(0, 1)),
        (20, 0, Round(0, 16)),
        (3, 0, Round(0, 3)),
    ],
)
def test_a_round_never_asks_for_more_than_remains(
    remaining: int, draft_length: int, expected: rounds.Round
) -> None:
    assert text(remaining).next(draft_length, 16) == expected


@pytest.mark.parametrize(("answer", "accepted"), [([7, 8, 9, 4], 3), ([7, 8, 5], 2), ([7, 5], 1), ([5], 0)])
def test_the_draft_tokens_that_lead_the_answer_were_accepted(answer: list[int], accepted: int) -> None:
    subject = text()
    outcome = subject.absorb(Round(3, 4), [7, 8, 9], answer)
    assert (list(outcome.tokens), outcome.drafted, outcome.accepted) == (answer, 3, accepted)
    assert not subject.finish
    assert list(subject.output) == answer


@pytest.mark.parametrize("answer", [[7, 8, 9], [7, 8], [7], []])
def test_an_answer_of_draft_tokens_alone_is_an_end(answer: list[int]) -> None:
    subject = text()
    subject.absorb(Round(3, 4), [7, 8, 9], answer)
    assert subject.finish == "stop"
    assert list(subject.output) == answer


def test_a_draft_that_ended_early_is_judged_by_its_own_length() -> None:
    subject = text()
    assert subject.absorb(Round(5, 6), [7, 8], [7, 8, 9]).accepted == 2
    assert not subject.finish
    subject.absorb(Round(5, 6), [], [4])
    assert not subject.finish
    subject.absorb(Round(5, 6), [], [])
    assert subject.finish == "stop"
    assert list(subject.output) == [7, 8, 9, 4]


def test_a_short_burst_is_an_end() -> None:
    subject = text()
    subject.absorb(Round(0, 4), (), [1, 2, 3, 4])
    assert not subject.finish
    subject.absorb(Round(0, 4), (), [5, 6])
    assert subject.finish == "stop"


def test_the_last_token_ends_by_length() -> None:
    subject = text(3)
    subject.absorb(Round(2, 3), [1, 2], [1, 2, 3])
    assert subject.finish == "length"


def test_max_tokens_of_one_needs_the_opening_only() -> None:
    subject = text(1)
    subject.absorb(OPENING, (), [5])
    assert subject.finish == "length"
    assert subject.counts == rounds.Counts()


@pytest.mark.parametrize("stop", [(2,), (1, 2), (101, 1), (100, 101, 1, 2)])
def test_a_stop_sequence_is_returned_and_may_begin_in_the_prompt(stop: tuple[int, ...]) -> None:
    subject = text(stop_sequences=[(50, 51), stop])
    subject.absorb(Round(3, 4), [1, 2, 3], [1, 2, 3, 4])
    assert subject.finish == "stop"
    assert tuple(subject.tokens[-len(stop) :]) == stop


def test_a_stop_sequence_may_span_two_rounds() -> None:
    subject = text(stop_sequences=[(8, 9, 5)])
    subject.absorb(Round(2, 3), [7, 8], [7, 8, 9])
    assert not subject.finish
    outcome = subject.absorb(Round(2, 3), [5, 6], [5, 6, 7])
    assert subject.finish == "stop"
    assert list(subject.output) == [7, 8, 9, 5]
    assert (outcome.drafted, outcome.accepted) == (1, 1)  # what followed was never judged


def test_a_stop_sequence_at_the_last_token_is_a_stop() -> None:
    subject = text(2, stop_sequences=[(2,)])
    subject.absorb(Round(1, 2), [1], [1, 2])
    assert subject.finish == "stop"


def test_an_end_token_that_an_engine_returns_is_cut_off() -> None:
    subject = text(end_id=9)
    outcome = subject.absorb(Round(3, 4), [7, 9, 4], [7, 9, 4, 5])
    assert subject.finish == "stop"
    assert list(outcome.tokens) == [7]


def test_min_tokens_counts_the_whole_request() -> None:
    subject = text(min_tokens=5, end_id=9)
    assert subject.held_back == 5
    subject.absorb(Round(2, 3), [7, 8], [7, 8, 6])
    assert subject.held_back == 2


def test_counts_satisfy_the_identity_of_rounds() -> None:
    subject = text(12)
    subject.absorb(OPENING, (), [1])
    subject.absorb(Round(3, 4), [2, 3, 4], [2, 3, 9])
    subject.absorb(Round(0, 4), (), [5, 6, 7, 8])
    subject.absorb(Round(3, 4), [2, 3, 4], [2, 3, 4, 9])
    assert subject.finish == "length"
    counts = subject.counts
    assert subject.produced == 1 + counts.rounds + counts.accepted
