# SPDX-License-Identifier: Apache-2.0
"""A bare Triton client: sends any tensors, also wrong ones, and keeps every response as it came."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from specclient.protocol import FRONT_MODEL, INPUTS

_NUMPY = {"BYTES": object, "INT32": np.int32, "FP32": np.float32, "BOOL": bool, "UINT64": np.uint64}


class WireError(Exception):
    """What the server answered instead of a response."""


@dataclass(frozen=True)
class Response:
    tensors: dict[str, np.ndarray]
    final: bool

    @property
    def text(self) -> str:
        return str(self.tensors["text_output"].reshape(-1)[0].decode("utf-8"))

    @property
    def ids(self) -> list[int]:
        ids: list[int] = self.tensors["output_ids"].reshape(-1).tolist()
        return ids

    def figure(self, name: str) -> Any:
        return self.tensors[name].item()


class Stream:
    """One request on a stream of its own; leaving the block cancels it."""

    def __init__(self, address: str, values: dict[str, Any], *, model: str = FRONT_MODEL) -> None:
        self._replies: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._ended = False
        self._client = triton.InferenceServerClient(address)
        self._client.start_stream(lambda result, error: self._replies.put((result, error)))
        self._client.async_stream_infer(
            model, [_tensor(name, value) for name, value in values.items()], enable_empty_final_response=True
        )

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        # Not after the end: tritonserver 2.51 then keeps the request for ever and is slow to stop.
        self._client.stop_stream(cancel_requests=not self._ended)
        self._client.close()

    def next(self, timeout_s: float = 60.0) -> Response:
        """The next response. Raises WireError when it is an error, or none comes in time."""
        try:
            result, error = self._replies.get(timeout=timeout_s)
        except queue.Empty:
            raise WireError(f"nothing for {timeout_s} s") from None
        if error is not None:
            self._ended = True
            raise WireError(str(error))
        message = result.get_response()
        self._ended = message.parameters["triton_final_response"].bool_param
        tensors = {output.name: result.as_numpy(output.name) for output in message.outputs}
        return Response(tensors, self._ended)

    def __iter__(self) -> Iterator[Response]:
        while True:
            response = self.next()
            yield response
            if response.final:
                return


def ask(address: str, text: str | bytes, max_tokens: int, **values: Any) -> list[Response]:
    """Every response to one request."""
    prompt = text.encode("utf-8") if isinstance(text, str) else text
    with Stream(address, {"text_input": prompt, "max_tokens": max_tokens, **values}) as stream:
        return list(stream)


def _tensor(name: str, value: Any) -> Any:
    """``value`` with the protocol's type, a scalar as [1, 1] and a list as [1, n]; an array as it is."""
    array = value
    if not isinstance(value, np.ndarray):
        kind = _NUMPY[INPUTS[name].datatype] if name in INPUTS else np.int32
        array = np.array([value] if isinstance(value, list) else [[value]], dtype=kind)
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor
