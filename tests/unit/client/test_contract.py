# SPDX-License-Identifier: Apache-2.0
"""What is sent to NVIDIA's stock models of both generations, by the tensors that they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specclient import Counters, GenerationParameters, InvalidRequest, protocol
from specclient.contract import Contract, datatype
from specclient.reply import Decoder, Reply

DATA = Path(__file__).parents[2] / "contract" / "data"


def stock(model: str, generation: str = "new", **changes: Any) -> Contract:
    """The contract of NVIDIA's `ensemble` or `bls_model`, as their own files say."""
    document = json.loads((DATA / f"triton_{model}.json").read_text(encoding="utf-8"))
    names = {kind: {tensor["name"] for tensor in document[kind]} for kind in ("inputs", "outputs")}
    if generation == "old":
        difference = document["difference_from_v0.19.0"]
        for kind, found in names.items():
            found -= set(difference[f"{kind}_added"])
            found |= set(difference[f"{kind}_gone"])
    return Contract(frozenset(names["inputs"]), frozenset(names["outputs"]), **changes)


EVERYTHING = {
    "max_tokens": 9,
    "min_tokens": 2,
    "temperature": 0.5,
    "top_k": 4,
    "top_p": 0.25,
    "seed": 3,
    "stop": ("s",),
    "bad_words": ("b",),
    "repetition_penalty": 1.5,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "length_penalty": 0.75,
    "end_id": 7,
    "pad_id": 8,
    "return_log_probs": True,
    "embedding_bias": {"x": 2.0},
    "lora_task_id": 5,
    "guided_decoding_guide_type": "regex",
    "guided_decoding_guide": "a+",
}


@pytest.mark.parametrize("generation", ["new", "old"])
@pytest.mark.parametrize("model", ["ensemble", "bls_model"])
def test_every_parameter_reaches_a_tensor_of_the_stock_models(model: str, generation: str) -> None:
    contract = stock(model, generation)
    tensors = contract.tensors(b"hi", GenerationParameters(**EVERYTHING))  # type: ignore[arg-type]
    assert tensors.keys() <= contract.inputs
    seed, least = ("seed", "min_tokens") if generation == "new" else ("random_seed", "min_length")
    assert (tensors[seed], tensors[least]) == ([3], [2])
    assert (tensors["embedding_bias_words"], tensors["embedding_bias_weights"]) == ([b"x"], [2.0])
    assert ("return_num_output_tokens" in tensors) == (generation == "new")


def test_the_types_of_stock_tensors_are_nvidias() -> None:
    for model in ("ensemble", "bls_model"):
        document = json.loads((DATA / f"triton_{model}.json").read_text(encoding="utf-8"))
        theirs = {tensor["name"]: tensor["data_type"].removeprefix("TYPE_") for tensor in document["inputs"]}
        for name in theirs.keys() & (protocol.INPUTS.keys() | protocol.STOCK_INPUTS.keys()):
            assert datatype(name).replace("BYTES", "STRING") == theirs[name], name


def test_what_a_model_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="num_draft_tokens"):
        stock("ensemble").tensors(b"hi", GenerationParameters(num_draft_tokens=4))
    with pytest.raises(InvalidRequest, match="lora_task_id"):
        Contract().tensors(b"hi", GenerationParameters(lora_task_id=1))
    # A model that cannot speculate does what 0 asks for.
    assert "num_draft_tokens" not in stock("ensemble").tensors(
        b"hi", GenerationParameters(num_draft_tokens=0)
    )


def test_the_bls_loop_is_asked_for_one_piece_with_the_prompt() -> None:
    """It refuses to stream, fails without the tensor, and slices what the target returns by the prompt."""
    bls = stock("bls_model")
    drafted = bls.tensors(b"hi", GenerationParameters(num_draft_tokens=4))
    assert (drafted["stream"], drafted["exclude_input_in_output"]) == ([False], [False])
    plain = bls.tensors(b"hi", GenerationParameters())
    assert (plain["stream"], plain["exclude_input_in_output"]) == ([True], [True])


def test_a_model_that_is_not_decoupled_is_not_asked_to_stream() -> None:
    assert stock("ensemble", decoupled=False).tensors(b"hi", GenerationParameters())["stream"] == [False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a prompt and more", " and more"), (" a prompt!", "!"), ("something else", "something else")],
)
def test_a_repeated_prompt_is_dropped(text: str, expected: str) -> None:
    decoder = Decoder(stock("bls_model"), drop_prefix="a prompt")
    chunk = decoder.chunk(Reply({"text_output": (text.encode(),)}, final=True), 0)
    assert chunk is not None and chunk.text == expected


def test_accumulated_text_becomes_what_each_response_adds() -> None:
    decoder = Decoder(stock("bls_model", accumulates=True))
    texts = []
    for data, final in ((b"a", False), ("a\ufffd".encode(), False), ("aé b".encode(), True)):
        chunk = decoder.chunk(Reply({"text_output": (data,), "output_ids": (1,)}, final), 0)
        assert chunk is not None
        texts.append(chunk.text)
    assert texts == ["a", "", "é b"]


def test_figures_of_the_last_round_are_not_taken_for_the_requests() -> None:
    decoder = Decoder(stock("bls_model"))
    outputs = {
        "text_output": (b"x",),
        "num_output_tokens": (3,),
        "num_input_tokens": (2,),
        "total_draft_tokens": (4,),
        "total_accepted_draft_tokens": (4,),
    }
    chunk = decoder.chunk(Reply(outputs, final=True), 0)
    assert chunk is not None
    assert chunk.counters.draft_acceptance_rate is None and chunk.counters.acceptance_length is None
    assert chunk.counters == Counters(num_input_tokens=2)
