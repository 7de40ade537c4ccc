# SPDX-License-Identifier: Apache-2.0
"""Stop texts: found wherever chunks are cut, never shown, and nothing is held back for longer than needed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specbuild.openai_front.stopping import StopText


def shown(stops: list[str], parts: list[str]) -> tuple[str, bool]:
    stop, text = StopText(stops), ""
    for number, part in enumerate(parts):
        text += stop.feed(part, last=number == len(parts) - 1)
        if stop.found:
            break
    return text, stop.found


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30), max_size=8),
)
def test_the_answer_ends_before_the_first_stop_text(text: str, stops: list[str], cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[a:b] for a, b in pairwise(bounds)]
    ends = [text.find(stop) for stop in stops if stop in text]
    result, found = shown(stops, parts)
    assert found == bool(ends)
    # What came before may have been shown already when an earlier, longer stop text is completed.
    assert text.startswith(result)
    if not ends:
        assert result == text
    elif len(stops) == 1:
        assert result == text[: min(ends)]


@pytest.mark.parametrize(("text", "expected"), [("a", "a"), ("aEN", "a"), ("aEx", "aEx")])
def test_only_what_may_begin_a_stop_text_waits(text: str, expected: str) -> None:
    assert StopText(["END"]).feed(text, last=False) == expected
