# SPDX-License-Identifier: Apache-2.0
"""Our Triton models against NVIDIA's: same names, types and shapes wherever a tensor exists in both.

The files in ``data/`` are extracts of the ``config.pbtxt`` files of TensorRT-LLM 1.2 (each names its source).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specbuild import resources
from specbuild.repository import modelconfig
from specbuild.repository.modelconfig import ModelConfig
from specclient import protocol

DATA = Path(__file__).parent / "data"

OURS = {
    "ensemble": {"num_draft_tokens", "output_ids", "num_rounds", "finish_reason"},
    "preprocessing": {"REQUEST_KEY"},
    "torch": {
        "num_draft_tokens",
        "request_key",
        "context_ids",
        "is_final",
        "num_rounds",
        "finish_reason",
    },
    "postprocessing": {"CONTEXT_IDS", "IS_FINAL", "REQUEST_KEY", "OUTPUT_IDS", *protocol.OUTPUTS},
}
NVIDIA = {
    "ensemble": "triton_ensemble",
    "preprocessing": "triton_preprocessing",
    "torch": "triton_tensorrt_llm_model",
    "postprocessing": "triton_postprocessing",
}


def config(model: str) -> ModelConfig:
    return modelconfig.read(resources.folder("model_repository") / model)


def contract(model: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DATA / f"{NVIDIA[model]}.json").read_text())
    return document


def signature(tensor: Any) -> tuple[str, tuple[int, ...]]:
    return modelconfig.data_type(tensor.data_type), tuple(tensor.dims)


@pytest.mark.parametrize("model", NVIDIA)
@pytest.mark.parametrize("side", ["input", "output"])
def test_shared_tensors_are_nvidias(model: str, side: str) -> None:
    theirs = {tensor["name"]: tensor for tensor in contract(model)[f"{side}s"]}
    for tensor in getattr(config(model), side):
        if tensor.name in OURS[model]:
            continue
        name, dims = theirs[tensor.name]["data_type"], tuple(theirs[tensor.name]["dims"])
        # The type of logits is a placeholder in NVIDIA's template.
        assert signature(tensor) == ("TYPE_FP32" if name.startswith("${") else name, dims)


def test_no_tensor_of_ours_hides_one_of_nvidias() -> None:
    for model in ("ensemble", "preprocessing", "torch"):
        theirs = {tensor["name"] for side in ("inputs", "outputs") for tensor in contract(model)[side]}
        assert not (OURS[model] - {"output_ids"}) & theirs


def test_the_front_model_is_the_protocol() -> None:
    ensemble = config(protocol.FRONT_MODEL)
    for tensors, expected in ((ensemble.input, protocol.INPUTS), (ensemble.output, protocol.OUTPUTS)):
        actual = {tensor.name: signature(tensor) for tensor in tensors}
        assert actual == {
            name: ("TYPE_" + tensor.datatype.replace("BYTES", "STRING"), tensor.shape)
            for name, tensor in expected.items()
        }


def test_a_client_must_send_what_nvidias_clients_send_and_no_more() -> None:
    required = {tensor["name"] for tensor in contract("ensemble")["inputs"] if not tensor["optional"]}
    assert {tensor.name for tensor in config("ensemble").input if not tensor.optional} == required


def test_every_output_of_nvidias_ensemble_is_there() -> None:
    theirs = {tensor["name"] for tensor in contract("ensemble")["outputs"]}
    assert theirs <= {tensor.name for tensor in config("ensemble").output}


def test_front_names_reach_the_same_engine_inputs_as_nvidias() -> None:
    theirs = next(s for s in contract("ensemble")["steps"] if s["model"] == "tensorrt_llm")["input_map"]
    ours = next(s for s in config("ensemble").ensemble_scheduling.step if s.model_name == "torch").input_map
    assert {name: theirs[name] for name in theirs if name in ours} == {
        name: ours[name] for name in theirs if name in ours
    }
    left_out = set(theirs) - set(ours)
    assert left_out == {
        "decoder_input_ids",
        "decoder_input_lengths",
        "embedding_bias",
        "prompt_embedding_table",
        "prompt_vocab_size",
        "prompt_table_extra_ids",
        "lora_task_id",
        "lora_weights",
        "lora_config",
        "guided_decoding_guide_type",
        "guided_decoding_guide",
    }


@pytest.mark.parametrize("model", ["torch", "postprocessing"])
def test_one_instance_keeps_the_chunks_of_a_stream_in_order(model: str) -> None:
    assert [group.count for group in config(model).instance_group] == [1]
