# SPDX-License-Identifier: Apache-2.0
"""The codec of gRPC: a request to one ``ModelInferRequest``, its responses to replies. No I/O.

tritonclient's generated messages are used, its client classes are not: they lose the status code of
stream errors, leak ``grpc.aio.AioRpcError`` and bare ``CancelledError``, and never time out (read in
tritonclient 2.73, ``grpc/_infer_stream.py`` and ``grpc/aio/__init__.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import service_pb2

from specclient.contract import datatype
from specclient.reply import READ, Outgoing, Reply
from specclient.status import translate

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
METADATA = (("triton_grpc_error", "true"),)
"""Asks Triton for gRPC status codes on streams; without it errors are text alone."""

_FINAL = "triton_final_response"
_FORMATS = {"INT32": "i", "INT64": "q", "UINT64": "Q", "FP32": "f", "BOOL": "?"}


def encode(outgoing: Outgoing) -> Any:
    """The ``ModelInferRequest`` for one streamed answer."""
    request = service_pb2.ModelInferRequest(model_name=outgoing.model, id=outgoing.request_id)
    # The last response then always says so, also where a model ends with an empty one.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, values in outgoing.tensors.items():
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, datatype(name)
        tensor.shape.extend([1, len(values)])
        request.raw_input_contents.append(pack(tensor.datatype, values))
    return request


def reply(message: Any) -> Reply:
    """A ``ModelStreamInferResponse`` as a reply. Raises the error that it stands for."""
    if message.error_message:
        raise translate("", message.error_message)
    response = message.infer_response
    return Reply(_unpack(response), is_final(response))


def is_final(response: Any) -> bool:
    """Whether a ``ModelInferResponse`` is its request's last.

    Triton marks the responses of decoupled models only; any other model's single response is the final one.
    """
    return bool(response.parameters[_FINAL].bool_param) if _FINAL in response.parameters else True


def _unpack(response: Any) -> dict[str, tuple[Any, ...]]:
    """The tensors of a response that are read here, flat. Triton sends all as raw contents."""
    return {
        tensor.name: unpack(tensor.datatype, raw)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=False)
        if tensor.name in READ
    }


def unpack(datatype: str, raw: bytes) -> tuple[Any, ...]:
    """A tensor's elements from its raw bytes."""
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
    """A tensor's raw bytes."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
