# SPDX-License-Identifier: Apache-2.0
"""The torch model: NVIDIA's tensors to a request of the runtime, and chunks to responses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from specbuild.errors import EngineError
from specbuild.repository import modelconfig
from specbuild.resources import folder
from specbuild.torch_runtime import Chunk, Counters, Sampling
from support.triton import model_module

generation = model_module("torch", "generation")

TYPES = {int: np.int32, float: np.float32, bool: np.bool_}


def tensors(**values: Any) -> dict[str, np.ndarray]:
    base = {"input_ids": np.array([[5, 6, 7]], np.int32), "request_output_len": np.array([[4]], np.int32)}
    return base | {
        name: value if isinstance(value, np.ndarray) else np.array([[value]], TYPES[type(value)])
        for name, value in values.items()
    }


def job(**values: Any) -> Any:
    return generation.job(tensors(**values), exclude_input=True, draft_length=5)


def counters(output_tokens: int) -> Counters:
    return Counters(3, output_tokens, 2, 6, 3, (1, 1, 1), (2, 2, 2), 10, 20, 30, 40)


def chunk(*ids: int, last: bool = False, log_probs: tuple[float, ...] = ()) -> Chunk:
    return Chunk(ids, log_probs, "length" if last else None, counters(len(ids)))


def say(transcript: Any, message: Chunk) -> Any:
    transcript.add(message)
    return transcript.answer()


def test_a_bare_request_is_greedy_and_speculates_as_configured() -> None:
    bare = job()
    assert bare.request.prompt == [5, 6, 7]
    assert bare.request.max_tokens == 4
    assert bare.request.sampling == Sampling()
    assert bare.request.draft_length is None
    assert (bare.streaming, bare.exclude_input, bare.key) == (False, True, None)


@pytest.mark.parametrize(
    "values", [{"temperature": 0.0}, {"runtime_top_k": 1}, {"runtime_top_p": 0.0, "temperature": 0.7}]
)
def test_tensorrt_llms_ways_to_ask_for_greedy(values: dict[str, Any]) -> None:
    assert job(**values).request.sampling.greedy


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"temperature": 0.5}, Sampling(temperature=0.5)),
        ({"runtime_top_k": 40}, Sampling(temperature=1.0, top_k=40)),
        ({"runtime_top_p": 0.5}, Sampling(temperature=1.0, top_p=0.5)),
        ({"runtime_top_k": 0}, Sampling(temperature=1.0)),
        (
            {
                "temperature": 2.0,
                "repetition_penalty": 1.5,
                "presence_penalty": 0.5,
                "frequency_penalty": -1.0,
            },
            Sampling(2.0, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=-1.0),
        ),
        ({"seed": np.array([[2**64 - 1]], np.uint64)}, Sampling(seed=2**64 - 1)),
    ],
)
def test_sampling_fields(values: dict[str, Any], expected: Sampling) -> None:
    assert job(**values).request.sampling == expected


def test_words_come_in_nvidias_layout() -> None:
    words = np.array([[[7, 8, 9, 0], [2, 3, -1, -1]]], np.int32)
    request = job(stop_words_list=words, bad_words_list=words).request
    assert request.stop_sequences == request.sampling.bad_words == ((7, 8), (9,))
    assert job(stop_words_list=np.zeros((1, 2, 0), np.int32)).request.stop_sequences == ()


@pytest.mark.parametrize("ends", [[2, 1], [3, 4], [0, 2]])
def test_offsets_that_lead_nowhere_are_refused(ends: list[int]) -> None:
    with pytest.raises(generation.InputError, match="stop_words_list: the offsets"):
        job(stop_words_list=np.array([[[7, 8], ends]], np.int32))


def test_an_end_id_of_minus_one_means_none() -> None:
    assert job(end_id=-1).request.end_ids == frozenset()
    assert job(end_id=9).request.end_ids == {9}


@pytest.mark.parametrize("drafts", [0, 3, 5])
def test_draft_tokens_per_request(drafts: int) -> None:
    assert job(num_draft_tokens=drafts).request.draft_length == drafts


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"num_draft_tokens": 6}, "num_draft_tokens"),
        ({"num_draft_tokens": -1}, "num_draft_tokens"),
        ({"beam_width": 2}, "beam_width"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"return_context_logits": True}, "return_context_logits"),
        ({"return_generation_logits": True}, "return_generation_logits"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -0.5}, "temperature"),
        ({"runtime_top_p": 2.0}, "top_p"),
        ({"runtime_top_k": -1}, "top_k"),
        ({"request_output_len": 0}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"runtime_top_k": np.array([[1, 2]], np.int32)}, "top_k"),
    ],
)
def test_refusals_name_the_field_of_the_front_model(values: dict[str, Any], field: str) -> None:
    with pytest.raises((generation.InputError, EngineError)) as error:
        job(**values)
    assert str(error.value).startswith(field)


def test_neutral_values_of_what_is_not_available_are_accepted() -> None:
    job(
        beam_width=1,
        num_return_sequences=1,
        return_context_logits=False,
        return_generation_logits=False,
        return_perf_metrics=True,
        len_penalty=1.0,
        pad_id=0,
    )


def test_without_ids_the_request_is_refused() -> None:
    with pytest.raises(generation.InputError, match="text_input: missing"):
        generation.job({}, exclude_input=True, draft_length=5)


def test_a_stream_answers_each_chunk_with_what_precedes_it() -> None:
    transcript = generation.Transcript(job(streaming=True, exclude_input_in_output=False))
    answers = [say(transcript, chunk(1, 2)), say(transcript, chunk(3)), say(transcript, chunk(4, last=True))]
    assert [(list(answer.context), list(answer.tokens)) for answer in answers] == [
        ([], [1, 2]),
        ([1, 2], [3]),
        ([1, 2, 3], [4]),
    ]
    assert [answer.finish_reason for answer in answers] == ["", "", "length"]


def test_chunks_that_wait_together_are_answered_together() -> None:
    transcript = generation.Transcript(job(streaming=True))
    transcript.add(chunk(1, 2))
    transcript.add(chunk(3))
    answer = transcript.answer()
    assert (list(answer.context), list(answer.tokens)) == ([], [1, 2, 3])


@pytest.mark.parametrize(("exclude", "expected"), [(True, [1, 2, 3]), (False, [5, 6, 7, 1, 2, 3])])
def test_without_streaming_there_is_one_answer(exclude: bool, expected: list[int]) -> None:
    transcript = generation.Transcript(job(exclude_input_in_output=exclude))
    assert say(transcript, chunk(1, 2)) is None
    answer = say(transcript, chunk(3, last=True))
    assert (list(answer.context), list(answer.tokens)) == ([], expected)


def test_log_probs_are_the_answers_own_and_their_sum_the_requests() -> None:
    transcript = generation.Transcript(job(streaming=True, return_log_probs=True))
    say(transcript, chunk(1, log_probs=(-1.0,)))
    answer = generation.tensors(say(transcript, chunk(2, 3, last=True, log_probs=(-0.5, -0.25))), None)
    assert answer["output_log_probs"].tolist() == [[[-0.5, -0.25]]]
    assert answer["cum_log_probs"].tolist() == [[-1.75]]


def test_every_output_is_in_every_response_with_its_type_and_rank() -> None:
    """An ensemble waits for ever for an output that is missing from a response."""
    transcript = generation.Transcript(job(streaming=True))
    for answer in (say(transcript, chunk(1, 2, last=True)), generation.NOTHING_YET):
        response = generation.tensors(answer, 7)
        declared = modelconfig.read(folder("model_repository") / "torch").output
        assert set(response) == {tensor.name for tensor in declared}
        for tensor in declared:
            value = response[tensor.name]
            assert value.ndim == len(tensor.dims) + 1
            assert value.shape[0] == 1
            name = modelconfig.data_type(tensor.data_type).removeprefix("TYPE_")
            expected = {"STRING": "object", "FP32": "float32"}.get(name, name.lower())
            assert str(value.dtype) == expected


def test_the_figures_of_a_response() -> None:
    transcript = generation.Transcript(job(streaming=True))
    response = generation.tensors(say(transcript, chunk(1, 2, last=True)), None)
    figures = {name: value.item() for name, value in response.items() if value.size == 1}
    assert figures["acceptance_rate"] == 0.5
    assert figures["total_draft_tokens"] == 6
    assert figures["total_accepted_draft_tokens"] == 3
    assert figures["num_rounds"] == 2
    assert figures["num_input_tokens"] == 3
    assert figures["finish_reason"] == b"length"


def test_nothing_drafted_is_an_acceptance_rate_of_zero() -> None:
    response = generation.tensors(generation.NOTHING_YET, None)
    assert response["acceptance_rate"].item() == 0
