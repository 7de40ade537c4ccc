# SPDX-License-Identifier: Apache-2.0
"""Parameters that no server could use are refused before anything is sent."""

from __future__ import annotations

import math
from typing import Any

import pytest

from specclient import GenerationParameters, InvalidRequest, Retry, Timeout
from specclient.parameters import parameters_from


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 2**31),
        ("max_tokens", True),
        ("max_tokens", None),
        ("max_tokens", 1.5),
        ("min_tokens", -1),
        ("min_tokens", 129),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 1e39),
        ("temperature", "1"),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", 2),
        ("seed", -1),
        ("seed", 2**64),
        ("repetition_penalty", 0.0),
        ("presence_penalty", math.nan),
        ("frequency_penalty", -math.inf),
        ("num_draft_tokens", -1),
        ("end_id", -1),
        ("stop", ("",)),
        ("stop", ("\ud800",)),
        ("bad_words", (3,)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=field) as caught:
        GenerationParameters(**{field: value})
    assert caught.value.remedy


def test_the_limits_themselves_are_accepted() -> None:
    GenerationParameters(
        max_tokens=2**31 - 1,
        min_tokens=2**31 - 1,
        temperature=0,
        top_k=0,
        top_p=1,
        seed=2**64 - 1,
        num_draft_tokens=0,
        presence_penalty=-1.5,
    )


def test_a_single_stop_text_is_not_taken_apart() -> None:
    assert GenerationParameters(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert GenerationParameters(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_fields_go_over_given_parameters() -> None:
    base = GenerationParameters(max_tokens=7, seed=1)
    assert parameters_from(base, {"seed": 2}) == GenerationParameters(max_tokens=7, seed=2)
    with pytest.raises(TypeError, match="max_token"):
        parameters_from(None, {"max_token": 7})


@pytest.mark.parametrize("field", ["connect", "first_token", "idle", "total"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_timeout_is_positive_or_none(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"Timeout.{field}"):
        Timeout(**{field: value})
    assert getattr(Timeout(**{field: None}), field) is None


def test_by_default_every_wait_has_a_limit() -> None:
    assert None not in (Timeout().connect, Timeout().first_token, Timeout().idle, Timeout().total)


@pytest.mark.parametrize("fields", [{"attempts": 0}, {"base": -1}, {"budget": -0.1}])
def test_a_retry_policy_that_means_nothing_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Retry(**fields)
