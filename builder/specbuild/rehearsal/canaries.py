# SPDX-License-Identifier: Apache-2.0
"""Prompts through the rehearsed deployment: the pair and the target alone must say the same.

Greedy requests must agree token by token. Sampled ones cannot; they must come to their end.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from specbuild.errors import ServerError
from specclient.protocol import FRONT_MODEL, INPUTS

BASELINE = "ensemble_baseline"
TIMEOUT_S = 120.0
PROMPTS = ("The quick brown fox", "def main() -> None:", "1, 2, 3, 5, 8,", "Once upon a time there was")
REQUESTS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"max_tokens": 32},
    "streamed": {"max_tokens": 32, "stream": True},
    "one token": {"max_tokens": 1},
    "min_tokens": {"max_tokens": 24, "min_tokens": 12},
    "stop words": {"max_tokens": 32, "stop_words": ["e", "\n"]},
    "penalised": {"max_tokens": 24, "repetition_penalty": 1.3},
    "sampled": {"max_tokens": 24, "top_p": 0.9, "temperature": 0.8, "seed": 7},
}
_SAMPLED = frozenset({"sampled"})
_TYPES = {"INT32": np.int32, "FP32": np.float32, "UINT64": np.uint64, "BOOL": np.bool_}


@dataclass(frozen=True, slots=True)
class Canary:
    """One prompt sent in one way."""

    request: str
    prompt: str
    agrees: bool | None
    """Whether the target alone said the same; None where there is nothing to compare with."""
    complaint: str | None
    tokens: int
    rounds: int
    drafted: int
    accepted: int
    first_text_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class _Answer:
    ids: list[int]
    last: Mapping[str, Any]
    first_text_ms: float
    total_ms: float


def sing(address: str, *, baseline: bool) -> Iterator[Canary]:
    """Every request with every prompt, at the server at ``address`` (gRPC)."""
    for name, fields in REQUESTS.items():
        for prompt in PROMPTS:
            yield _canary(address, name, prompt, fields, baseline and name not in _SAMPLED)


def _canary(address: str, name: str, prompt: str, fields: Mapping[str, Any], compare: bool) -> Canary:
    inputs = {"text_input": prompt, "exclude_input_in_output": True, **fields}
    try:
        answer = _ask(address, FRONT_MODEL, inputs)
        agrees = answer.ids == _ask(address, BASELINE, inputs).ids if compare else None
    except ServerError as error:
        return Canary(name, prompt, None, error.message, 0, 0, 0, 0, 0.0, 0.0)
    tokens, rounds, drafted, accepted = (int(answer.last[key]) for key in _COUNTS)
    first, total = answer.first_text_ms, answer.total_ms
    return Canary(name, prompt, agrees, None, tokens, rounds, drafted, accepted, first, total)


_COUNTS = ("num_output_tokens", "num_rounds", "total_draft_tokens", "total_accepted_draft_tokens")


def _ask(address: str, model: str, fields: Mapping[str, Any]) -> _Answer:
    """The whole answer. Raises ServerError."""
    import tritonclient.grpc as triton

    replies: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client = triton.InferenceServerClient(address)
    start = time.monotonic()
    try:
        client.start_stream(lambda result, error: replies.put((result, error)), stream_timeout=TIMEOUT_S)
        client.async_stream_infer(model, _inputs(triton, fields), enable_empty_final_response=True)
        return _collect(replies, start)
    except (queue.Empty, triton.InferenceServerException) as error:
        raise ServerError(f"{model}: {error or 'no answer'}", remedy="Look into the server's log.") from None
    finally:
        client.stop_stream(cancel_requests=True)
        client.close()


def _collect(replies: queue.SimpleQueue[tuple[Any, Any]], start: float) -> _Answer:
    ids: list[int] = []
    last: dict[str, Any] = {}
    first: float | None = None
    while True:
        result, error = replies.get(timeout=TIMEOUT_S)
        if error is not None:
            raise error
        response = result.get_response()
        if response.outputs:
            first = time.monotonic() if first is None else first
            ids += result.as_numpy("output_ids").reshape(-1).tolist()
            last = {name: result.as_numpy(name).reshape(-1)[0] for name in _COUNTS}
        if response.parameters["triton_final_response"].bool_param:
            now = time.monotonic()
            return _Answer(ids, last, ((first or now) - start) * 1e3, (now - start) * 1e3)


def _inputs(triton: Any, fields: Mapping[str, Any]) -> list[Any]:
    tensors = []
    for name, value in fields.items():
        datatype = INPUTS[name].datatype
        values = value if isinstance(value, list) else [value]
        if datatype == "BYTES":
            array = np.array([[text.encode() for text in values]], dtype=object)
        else:
            array = np.array([values], dtype=_TYPES[datatype])
        tensor = triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors
