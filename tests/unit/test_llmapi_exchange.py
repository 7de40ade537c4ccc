# SPDX-License-Identifier: Apache-2.0
"""Tensors to a request of the LLM API and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.triton import model_module

exchange = model_module("llmapi", "exchange")
LIMITS = exchange.Limits(max_input_len=100, max_seq_len=128, draft_length=4)


def words(*sequences: list[int]) -> np.ndarray:
    ids = [token for sequence in sequences for token in sequence]
    ends = list(np.cumsum([len(sequence) for sequence in sequences]))
    return np.array([[ids, ends + [-1] * (len(ids) - len(ends))]], dtype=np.int32)


def job(**tensors: Any) -> Any:
    inputs = {"input_ids": [[1, 2, 3]], "request_output_len": [[10]], **tensors}
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return exchange.job(arrays, exclude_input=True, limits=LIMITS)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, {"top_k": 1}),
        ({"temperature": [[0.0]]}, {"top_k": 1}),
        ({"runtime_top_p": [[0.0]], "temperature": [[0.7]]}, {"top_k": 1}),
        ({"runtime_top_k": [[1]]}, {"top_k": 1}),
        ({"temperature": [[0.5]], "runtime_top_p": [[0.9]]}, {"temperature": 0.5, "top_p": 0.9}),
        ({"runtime_top_k": [[40]]}, {"top_k": 40}),
    ],
)
def test_sampling_is_greedy_unless_asked_otherwise(asked: dict[str, Any], chosen: dict[str, Any]) -> None:
    sampling = job(**asked).sampling
    assert {name: sampling.get(name) for name in ("temperature", "top_k", "top_p")} == {
        "temperature": None,
        "top_k": None,
        "top_p": None,
        **chosen,
    }


def test_what_a_request_does_not_say_is_left_to_tensorrt_llm() -> None:
    assert job().sampling == {
        "top_k": 1,
        "detokenize": False,
        "include_stop_str_in_output": True,
        "return_perf_metrics": True,
    }


def test_every_sampling_field_reaches_the_llm_api() -> None:
    sampling = job(
        temperature=[[0.8]],
        repetition_penalty=[[1.1]],
        presence_penalty=[[0.2]],
        frequency_penalty=[[0.3]],
        seed=[[7]],
        end_id=[[9]],
        pad_id=[[8]],
        return_log_probs=[[True]],
        bad_words_list=words([5], [6]),
        stop_words_list=words([11], [12, 13]),
    ).sampling
    expected = {
        "temperature": 0.8,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "seed": 7,
        "end_id": 9,
        "pad_id": 8,
        "logprobs": 1,
        "bad_token_ids": [5, 6],
        "stop_token_ids": [11],
    }
    assert expected.items() <= sampling.items()


def test_a_minimum_length_is_kept_by_the_model_itself() -> None:
    """The LLM API would stop at a stop token whatever min_tokens says."""
    sampling = job(stop_words_list=words([11]), min_tokens=[[5]]).sampling
    assert sampling["min_tokens"] == 5
    assert "stop_token_ids" not in sampling


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"beam_width": [[2]]}, "beam_width: beam search"),
        ({"return_generation_logits": [[True]]}, "return_generation_logits"),
        ({"num_draft_tokens": [[0]]}, "num_draft_tokens: 0, but the LLM API drafts 4"),
        ({"request_output_len": [[0]]}, "max_tokens: 0"),
        ({"input_ids": [list(range(101))]}, "text_input: 101 tokens"),
        ({"bad_words_list": words([1, 2])}, "bad_words: .* single token"),
        ({"seed": [[1, 2]]}, "seed: 2 values"),
        ({"stop_words_list": np.array([[[1, 2], [3, -1]]])}, "stop_words: the offsets"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_front_name(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(exchange.InputError, match=message):
        job(**tensors)


def test_the_configured_draft_length_may_be_repeated() -> None:
    assert job(num_draft_tokens=[[4]]).max_tokens == 10


def test_the_context_window_ends_a_request() -> None:
    assert job(input_ids=[list(range(100))], request_output_len=[[1000]]).max_tokens == 28


def step(*tokens: int, reason: str | None = None, **more: Any) -> Any:
    return exchange.Step(tokens, reason, **more)


def test_a_stream_gives_each_token_once_with_what_came_before() -> None:
    transcript = exchange.Transcript(job(streaming=[[True]]))
    first = transcript.add(step(4, 5))
    second = transcript.add(step(4, 5, 6, reason="length"))
    assert (list(first.tokens), list(first.context), first.finish_reason) == ([4, 5], [], "")
    assert (list(second.tokens), list(second.context), second.finish_reason) == ([6], [4, 5], "length")
    assert second.output_tokens == 3


def test_a_step_without_news_gives_no_answer() -> None:
    transcript = exchange.Transcript(job(streaming=[[True]]))
    assert transcript.add(step(4)) is not None
    assert transcript.add(step(4)) is None


@pytest.mark.parametrize("streaming", [True, False])
def test_a_stop_sequence_that_spans_two_steps_ends_the_text_with_it(streaming: bool) -> None:
    transcript = exchange.Transcript(job(streaming=[[streaming]], stop_words_list=words([9, 9], [5, 6])))
    steps = [step(4, 5), step(4, 5, 6, 7)]
    answers = [answer for answer in map(transcript.add, steps) if answer is not None]
    assert [token for answer in answers for token in answer.tokens] == [4, 5, 6]
    assert answers[-1].finish_reason == "stop"


def test_a_stop_sequence_counts_from_the_minimum_length_on() -> None:
    transcript = exchange.Transcript(job(stop_words_list=words([5]), min_tokens=[[3]]))
    answer = transcript.add(step(5, 5, 4, 5, 4, reason="length"))
    assert (list(answer.tokens), answer.finish_reason) == ([5, 5, 4, 5], "stop")


def test_the_prompt_comes_back_when_asked_for_and_never_in_a_stream() -> None:
    whole = exchange.Transcript(job(exclude_input_in_output=[[False]]))
    assert list(whole.add(step(4, reason="length")).tokens) == [1, 2, 3, 4]
    stream = exchange.Transcript(job(exclude_input_in_output=[[False]], streaming=[[True]]))
    assert list(stream.add(step(4, reason="length")).tokens) == [4]


def test_figures_are_those_of_the_llm_api_where_it_has_them() -> None:
    asked = job()
    final = step(4, 5, 6, reason="length", iterations=2, drafted=7, accepted=1)
    tensors = exchange.tensors(exchange.Transcript(asked).add(final), asked, 4)
    figures = {name: tensors[name].item() for name in ("num_rounds", "total_draft_tokens")}
    assert figures == {"num_rounds": 2, "total_draft_tokens": 7}
    assert tensors["acceptance_rate"].item() == pytest.approx(1 / 7)
    bare = exchange.Transcript(asked).add(step(4, 5, 6, reason="length", iterations=2))
    tensors = exchange.tensors(bare, asked, 4)
    assert tensors["total_accepted_draft_tokens"].item() == 1
    assert tensors["total_draft_tokens"].item() == 8


def test_every_output_is_declared_with_its_shape() -> None:
    from specbuild import resources
    from specbuild.repository import modelconfig

    asked = job()
    tensors = exchange.tensors(exchange.Transcript(asked).add(step(4, reason="stop")), asked, 4)
    declared = modelconfig.read(resources.folder("model_repository") / "llmapi").output
    assert set(tensors) == {row.name for row in declared}
    for row in declared:
        assert tensors[row.name].ndim == 1 + len(row.dims)
