# SPDX-License-Identifier: Apache-2.0
"""The codec: parameters to one ``ModelInferRequest``, streamed responses to chunks. No I/O.

tritonclient's generated messages are used, its client classes are not: they lose the status code of
stream errors, leak ``grpc.aio.AioRpcError`` and bare ``CancelledError``, and never time out (read in
tritonclient 2.73, ``grpc/_infer_stream.py`` and ``grpc/aio/__init__.py``).
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import service_pb2

from specclient import protocol
from specclient.completion import Chunk, Counters
from specclient.errors import InvalidRequest
from specclient.parameters import GenerationParameters, checked_text

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
METADATA = (("triton_grpc_error", "true"),)
"""Asks Triton for gRPC status codes on streams; without it errors are text alone."""

_FORMATS = {"INT32": "i", "INT64": "q", "UINT64": "Q", "FP32": "f", "BOOL": "?"}
_FINISH_REASONS: dict[str, protocol.FinishReason] = {"stop": "stop", "length": "length"}


def encode(prompt: str, parameters: GenerationParameters, *, model: str, request_id: str) -> Any:
    """The ``ModelInferRequest`` for one streamed answer. Raises InvalidRequest."""
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    # The last response then always says so, also where a model ends with an empty one.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, values in tensors(prompt, parameters).items():
        datatype = protocol.INPUTS[name].datatype
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, datatype
        tensor.shape.extend([1, len(values)])
        request.raw_input_contents.append(pack(datatype, values))
    return request


def tensors(prompt: str, parameters: GenerationParameters) -> dict[str, Sequence[Any]]:
    """The input tensors to send, by name, without the batch dimension."""
    text = checked_text(prompt, "prompt")
    if len(text) > protocol.MAX_TEXT_BYTES:
        raise InvalidRequest(
            f"the prompt has {len(text):,} bytes", remedy=f"At most {protocol.MAX_TEXT_BYTES:,} are accepted."
        )
    single = {
        "text_input": text,
        "max_tokens": parameters.max_tokens,
        "min_tokens": parameters.min_tokens,
        **_sampling(parameters),
        "seed": parameters.seed,
        "repetition_penalty": parameters.repetition_penalty,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "num_draft_tokens": parameters.num_draft_tokens,
        "end_id": parameters.end_id,
        "pad_id": parameters.pad_id,
        "return_log_probs": parameters.return_log_probs or None,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
        "exclude_input_in_output": True,
        "stream": True,
    }
    inputs: dict[str, Sequence[Any]] = {name: [value] for name, value in single.items() if value is not None}
    if parameters.stop:
        inputs["stop_words"] = [word.encode() for word in parameters.stop]
    if parameters.bad_words:
        inputs["bad_words"] = [word.encode() for word in parameters.bad_words]
    return inputs


def _sampling(parameters: GenerationParameters) -> dict[str, float | int | None]:
    """Temperature, top-k and top-p as TensorRT-LLM needs them to mean what the caller said."""
    if parameters.temperature == 0:
        return {"top_k": 1}  # greedy for every runtime; a temperature of 0 is not accepted by all
    top_p = parameters.top_p
    if parameters.temperature is not None and parameters.top_k is None and top_p is None:
        # A temperature alone leaves TensorRT-LLM engines greedy: their default top_k is 1.
        top_p = 1.0
    return {"temperature": parameters.temperature, "top_k": parameters.top_k, "top_p": top_p}


class Decoder:
    """Turns the responses of one stream into chunks; keeps half a character until the rest arrives."""

    def __init__(self, *, log_probs: bool = False) -> None:
        self._log_probs = log_probs
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._index = 0
        self._counters = Counters()
        self.final = False
        """Whether the final response has been seen."""

    def chunk(self, response: Any, received_ns: int) -> Chunk | None:
        """The content of a ``ModelInferResponse``; None when it has none."""
        self.final = response.parameters["triton_final_response"].bool_param
        outputs = _unpack(response)
        text = b"".join(outputs.get("text_output", ()))
        reason = b"".join(outputs.get("finish_reason", ())).decode("ascii", "replace")
        if "num_output_tokens" in outputs:
            self._counters = _counters(outputs)
        chunk = Chunk(
            text=self._utf8.decode(text, self.final),
            token_ids=outputs.get("output_ids", ()),
            index=self._index,
            received_ns=received_ns,
            finish_reason=_FINISH_REASONS.get(reason),
            counters=self._counters,
            log_probs=outputs.get("output_log_probs", ()) if self._log_probs else (),
        )
        if not (chunk.text or chunk.token_ids or chunk.finish_reason):
            return None
        self._index += 1
        return chunk


def _counters(outputs: dict[str, tuple[Any, ...]]) -> Counters:
    def count(name: str) -> int:
        return int(outputs[name][0]) if outputs.get(name) else 0

    return Counters(
        num_input_tokens=count("num_input_tokens"),
        num_output_tokens=count("num_output_tokens"),
        num_rounds=count("num_rounds"),
        total_draft_tokens=count("total_draft_tokens"),
        total_accepted_draft_tokens=count("total_accepted_draft_tokens"),
    )


_READ = {
    "text_output",
    "finish_reason",
    "output_ids",
    "output_log_probs",
    "num_input_tokens",
    "num_output_tokens",
    "num_rounds",
    "total_draft_tokens",
    "total_accepted_draft_tokens",
}


def _unpack(response: Any) -> dict[str, tuple[Any, ...]]:
    """The tensors of a response that are read here, flat. Triton sends all as raw contents."""
    return {
        tensor.name: unpack(tensor.datatype, raw)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=False)
        if tensor.name in _READ
    }


def unpack(datatype: str, raw: bytes) -> tuple[Any, ...]:
    if datatype == "BYTES":
        return tuple(_strings(raw))
    code = _FORMATS[datatype]
    return struct.unpack(f"<{len(raw) // struct.calcsize('<' + code)}{code}", raw)


def _strings(raw: bytes) -> list[bytes]:
    """The elements of a BYTES tensor: each is its length as uint32, then its bytes."""
    elements, position = [], 0
    while position + 4 <= len(raw):
        (length,) = struct.unpack_from("<I", raw, position)
        elements.append(raw[position + 4 : position + 4 + length])
        position += 4 + length
    return elements


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
