# SPDX-License-Identifier: Apache-2.0
"""The codec: what goes over the wire, and what is made of what comes back."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from specclient import GenerationParameters, InvalidRequest, Retry, Timeout, protocol, stream
from specclient.contract import Contract
from specclient.exchange import Exchange
from specclient.reply import Decoder
from specclient.retry import RetryBudget

MODEL = Path(__file__).parents[3] / "model_repository" / "ensemble" / "config.pbtxt"


def sent(prompt: str = "hi", **fields: Any) -> dict[str, list[Any]]:
    """The request's tensors, read back from its bytes."""
    budget = RetryBudget(Retry())
    exchange = Exchange(
        prompt,
        GenerationParameters(**fields),
        model="ensemble",
        endpoint="here",
        request_id="r",
        timeout=Timeout(),
        budget=budget,
    )
    request = stream.encode(exchange.outgoing(Contract()))
    read = service_pb2.ModelInferRequest.FromString(request.SerializeToString())
    assert (read.model_name, read.id) == ("ensemble", "r")
    tensors = {}
    for tensor, raw in zip(read.inputs, read.raw_input_contents, strict=True):
        values = list(stream.unpack(tensor.datatype, raw))
        assert list(tensor.shape) == [1, len(values)]
        tensors[tensor.name] = values
    return tensors


def response(text: bytes = b"", *, final: bool = False, **outputs: list[Any]) -> Any:
    message = service_pb2.ModelInferResponse(id="r")
    message.parameters["triton_final_response"].bool_param = final
    for name, values in {"text_output": [text], **outputs}.items():
        datatype = protocol.OUTPUTS[name].datatype
        message.outputs.add(name=name, datatype=datatype, shape=[1, len(values)])
        message.raw_output_contents.append(stream.pack(datatype, values))
    return stream.reply(service_pb2.ModelStreamInferResponse(infer_response=message))


def test_a_request_says_what_the_caller_said_and_no_more() -> None:
    tensors = sent("naïve", max_tokens=5, seed=2**64 - 1, stop=("a", "né"), num_draft_tokens=0)
    assert tensors == {
        "text_input": ["naïve".encode()],
        "max_tokens": [5],
        "seed": [2**64 - 1],
        "stop_words": [b"a", "né".encode()],
        "num_draft_tokens": [0],
        "stream": [True],
        "exclude_input_in_output": [True],
        "return_num_input_tokens": [True],
        "return_num_output_tokens": [True],
    }


def test_every_parameter_reaches_a_tensor_of_the_contract() -> None:
    tensors = sent(
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_k=4,
        top_p=0.25,
        seed=3,
        stop=("s",),
        bad_words=("b",),
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        length_penalty=0.75,
        num_draft_tokens=6,
        end_id=7,
        pad_id=8,
        return_log_probs=True,
    )
    assert tensors["length_penalty"] == [0.75]
    assert set(tensors) <= set(protocol.INPUTS)
    assert [tensors[name] for name in ("temperature", "top_k", "top_p", "min_tokens", "bad_words")] == [
        [0.5],
        [4],
        [0.25],
        [2],
        [b"b"],
    ]
    assert (tensors["end_id"], tensors["pad_id"], tensors["return_log_probs"]) == ([7], [8], [True])
    assert (tensors["repetition_penalty"], tensors["frequency_penalty"]) == ([1.5], [-0.5])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"temperature": 0.5}, {"temperature": [0.5], "top_p": [1.0]}),
        ({"temperature": 0.5, "top_k": 3}, {"temperature": [0.5], "top_k": [3]}),
        ({"temperature": 0.5, "top_p": 0.5}, {"temperature": [0.5], "top_p": [0.5]}),
        ({"temperature": 0}, {"top_k": [1]}),
        ({"temperature": 0.0, "top_p": 0.5}, {"top_k": [1]}),
        ({"top_p": 0.5}, {"top_p": [0.5]}),
    ],
)
def test_sampling_means_the_same_to_a_tensorrt_llm_engine(
    fields: dict[str, Any], expected: dict[str, list[Any]]
) -> None:
    tensors = sent(**fields)
    assert {k: v for k, v in tensors.items() if k in {"temperature", "top_k", "top_p"}} == expected


@pytest.mark.parametrize("prompt", ["", "\ud83d", "ok \udcff", "x" * (protocol.MAX_TEXT_BYTES + 1)])
def test_a_prompt_that_cannot_be_sent_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        sent(prompt)


def test_the_contract_is_the_front_models() -> None:
    """Names in protocol.py and in the model's configuration are the same."""
    config = MODEL.read_text(encoding="utf-8").split("ensemble_scheduling")[0]
    for name, tensor in {**protocol.INPUTS, **protocol.OUTPUTS}.items():
        kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
        assert f'name: "{name}", data_type: TYPE_{kind}, dims: {json.dumps(list(tensor.shape))}' in config


def test_a_chunk_has_text_tokens_and_the_counts_so_far() -> None:
    decoder = Decoder()
    chunk = decoder.chunk(
        response(
            b"two words",
            output_ids=[4, 5],
            num_output_tokens=[2],
            num_rounds=[1],
            total_draft_tokens=[3],
            total_accepted_draft_tokens=[1],
            num_input_tokens=[9],
            finish_reason=[b""],
        ),
        123,
    )
    assert chunk is not None and not decoder.final
    assert (chunk.text, chunk.token_ids, chunk.index, chunk.received_ns) == ("two words", (4, 5), 0, 123)
    assert chunk.finish_reason is None and chunk.counters.num_input_tokens == 9
    assert (chunk.counters.acceptance_length, chunk.counters.draft_acceptance_rate) == (2.0, 1 / 3)


def test_log_probs_are_delivered_on_request_only() -> None:
    for wanted in (True, False):
        chunk = Decoder(log_probs=wanted).chunk(response(b"x", output_log_probs=[-0.5]), 0)
        assert chunk is not None and chunk.log_probs == ((-0.5,) if wanted else ())


def test_an_empty_final_response_ends_the_stream_without_a_chunk() -> None:
    decoder = Decoder()
    decoder.chunk(response(b"all"), 0)
    assert decoder.chunk(service_final(), 1) is None
    assert decoder.final


def service_final() -> Any:
    message = service_pb2.ModelStreamInferResponse()
    message.infer_response.parameters["triton_final_response"].bool_param = True
    return stream.reply(message)


def test_a_response_without_the_flag_is_the_only_one() -> None:
    """Triton marks the responses of decoupled models alone."""
    assert stream.reply(service_pb2.ModelStreamInferResponse()).final


def test_half_a_character_at_the_very_end_is_replaced_not_lost() -> None:
    decoder = Decoder()
    assert decoder.chunk(response(b"a\xf0\x9f", output_ids=[1]), 0).text == "a"  # type: ignore[union-attr]
    last = decoder.chunk(service_final(), 1)
    assert last is not None and last.text == "\ufffd"


def test_an_unknown_finish_reason_is_none() -> None:
    chunk = Decoder().chunk(response(b"x", finish_reason=[b"other"], final=True), 0)
    assert chunk is not None and chunk.finish_reason is None


@given(st.text(max_size=40), st.lists(st.integers(0, 200), max_size=12))
def test_text_cut_anywhere_comes_back_whole(text: str, cuts: list[int]) -> None:
    """Whatever bytes a server puts into its chunks, no half character reaches the caller."""
    data = text.encode()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = Decoder()
    parts = [
        chunk.text
        for start, end in pairwise(bounds)
        if (chunk := decoder.chunk(response(data[start:end]), 0)) is not None
    ]
    decoder.chunk(service_final(), 0)
    assert "".join(parts) == text


@given(st.binary(max_size=40), st.integers(0, 40))
def test_invalid_bytes_never_raise_and_never_leave_surrogates(data: bytes, cut: int) -> None:
    decoder = Decoder()
    for part, final in ((data[:cut], False), (data[cut:], True)):
        chunk = decoder.chunk(response(part, final=final), 0)
        if chunk is not None:
            chunk.text.encode("utf-8")
