# SPDX-License-Identifier: Apache-2.0
"""Figures of one answer, by hand-made arrival times; what has no value is None."""

from __future__ import annotations

import pytest

from specclient import Chunk, Completion, Counters

MS = 1_000_000


def completion(*arrivals: tuple[int, int], counters: Counters | None = None) -> Completion:
    """From (milliseconds, tokens) of each chunk, sent at 0."""
    chunks, done = [], 0
    for index, (at, tokens) in enumerate(arrivals):
        ids = tuple(range(done, done + tokens))
        done += tokens
        now = counters or Counters(num_output_tokens=done)
        chunks.append(Chunk(f"{index} ", ids, index, at * MS, counters=now))
    return Completion("r", tuple(chunks), sent_ns=0)


def test_times_of_a_stream_with_bursts() -> None:
    answer = completion((50, 1), (60, 3), (70, 3), (80, 3))
    assert answer.ttft == pytest.approx(0.050)
    assert answer.latency == pytest.approx(0.080)
    assert answer.tpot == pytest.approx(0.030 / 9)
    assert answer.chunk_gaps == pytest.approx([0.010] * 3)
    assert (answer.text, answer.token_ids) == ("0 1 2 3 ", tuple(range(10)))


def test_one_token_or_one_chunk_has_no_time_per_token() -> None:
    assert completion((50, 1)).tpot is None
    assert completion((50, 8)).tpot is None
    assert completion((50, 8)).ttft == completion((50, 8)).latency


def test_an_empty_answer_has_no_times() -> None:
    answer = completion()
    assert (answer.ttft, answer.tpot, answer.latency, answer.finish_reason) == (None, None, None, None)
    assert (answer.text, answer.output_tokens, list(answer.chunk_gaps)) == ("", 0, [])


def test_two_chunks_may_share_a_tick() -> None:
    assert completion((50, 1), (50, 1)).tpot == 0.0


def test_acceptance_is_none_without_drafts() -> None:
    plain = completion((1, 1), counters=Counters(num_output_tokens=9, num_rounds=9))
    assert (plain.acceptance_length, plain.draft_acceptance_rate) == (None, None)
    drafted = completion(
        (1, 1), counters=Counters(num_rounds=4, total_draft_tokens=20, total_accepted_draft_tokens=10)
    )
    assert (drafted.acceptance_length, drafted.draft_acceptance_rate) == (3.5, 0.5)
