# SPDX-License-Identifier: Apache-2.0
"""Settings and requests refuse what they cannot mean, naming the field."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from specbuild import torch_runtime
from specbuild.errors import EngineError
from specbuild.torch_runtime import Request, Sampling, Settings

SETTINGS = Settings(draft_length=4, adaptive=True, max_batch_size=2, max_input_len=10, max_seq_len=20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 2.0),
        ("top_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("frequency_penalty", -math.inf),
        ("seed", -1),
        ("seed", 2**64),
        ("bad_words", ((),)),
    ],
)
def test_sampling_names_the_bad_field(name: str, value: Any) -> None:
    with pytest.raises(EngineError, match=name):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", 0), ("max_tokens", -5), ("min_tokens", -1), ("stop_sequences", ((),))]
)
def test_request_names_the_bad_field(name: str, value: Any) -> None:
    with pytest.raises(EngineError, match=name):
        Request(**{"prompt": [1], "max_tokens": 1, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("draft_length", -1),
        ("draft_length", 20),
        ("max_batch_size", 0),
        ("max_input_len", 20),
        ("max_input_len", 0),
        ("prefill_chunk", 0),
        ("max_queue_size", 0),
    ],
)
def test_settings_name_the_bad_field(name: str, value: Any) -> None:
    with pytest.raises(EngineError, match=name):
        dataclasses.replace(SETTINGS, **{name: value})


def test_the_defaults_are_greedy() -> None:
    assert Sampling().greedy
    assert Sampling(temperature=0.9, top_k=1).greedy
    assert Sampling(temperature=1e-40).greedy
    assert not Sampling(temperature=0.9).greedy


def test_a_request_may_fill_the_window_exactly() -> None:
    Request(prompt=[1] * 10, max_tokens=10).check(SETTINGS, 5)
    with pytest.raises(EngineError, match="10 prompt tokens and max_tokens 11 exceed max_seq_len"):
        Request(prompt=[1] * 10, max_tokens=11).check(SETTINGS, 5)


def test_the_package_exports_what_it_lists() -> None:
    public = {name for name in vars(torch_runtime) if name[0].isupper()}
    assert public - {"MissingDependencyError"} == set(torch_runtime.__all__)
