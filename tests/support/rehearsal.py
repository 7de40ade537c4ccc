# SPDX-License-Identifier: Apache-2.0
"""A deployment of the tensorrt_llm runtime with a small synthetic pair, rehearsed on a real Triton."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from specbuild import repository, server
from specbuild.checkpoint import Checkpoint
from specbuild.config import Config
from specbuild.rehearsal import stand_in, venue
from specbuild.repository.placement import ENGINE_MODELS
from specbuild.server import RunningServer
from specclient.protocol import INPUTS
from support.ports import free_ports


def settings_for(pair: Path, output: Path, **changes: Any) -> Config:
    """The configuration for ``pair``, on free ports; ``changes`` are sections."""
    http, grpc, metrics = free_ports(3)
    document: dict[str, Any] = {
        "name": "rehearsed",
        "runtime": "tensorrt_llm",
        "target": {"checkpoint": str(pair / "target")},
        "draft": {"checkpoint": str(pair / "draft")},
        "speculation": {"draft_length": 5, "adaptive": False},
        "limits": {"max_batch_size": 8, "max_input_len": 256, "max_seq_len": 512},
        "serving": {
            "http_port": http,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "startup_timeout_s": 90,
        },
        "output": str(output),
    }
    for section, values in changes.items():
        document[section] = {**document.get(section, {}), **values}
    return Config.model_validate(document)


@contextlib.contextmanager
def rehearsed(
    settings: Config, *, threads: int = 1, pass_ms: int = 0, change: Callable[[Config], None] = lambda _: None
) -> Iterator[RunningServer]:
    """The deployment's repository, written and served, with the pair itself behind its engines.

    ``change`` is called before the server is started. A pass of an engine takes ``pass_ms`` at least.
    """
    folders = {"target": Path(settings.target.checkpoint), "draft": Path(settings.draft.checkpoint)}
    stand_in.write(settings, {role: Checkpoint.open(folder) for role, folder in folders.items()})  # type: ignore[misc]
    repository.write(settings)
    change(settings)
    base = server.find(None, os.environ)
    on = venue.installation(base, settings.output / "venue")
    weights = {ENGINE_MODELS[role]: folder for role, folder in folders.items()}  # type: ignore[index]
    pace = json.dumps(dict.fromkeys(weights, pass_ms))
    variables = venue.variables(weights) | {venue.THREADS: str(threads), venue.PACE_MS: pace}
    with server.running(settings, on=on, variables=variables) as running:
        yield running


@dataclass
class Answer:
    """All responses to one request."""

    responses: list[dict[str, np.ndarray]] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    """time.perf_counter of each response."""
    error: str | None = None

    @property
    def tokens(self) -> list[int]:
        return [token for one in self.responses for token in one["output_ids"].reshape(-1).tolist()]

    @property
    def text(self) -> str:
        return b"".join(one["text_output"].reshape(-1)[0] for one in self.responses).decode()

    def last(self, name: str) -> Any:
        return self.responses[-1][name].item()


NUMPY: Mapping[str, Any] = {
    "INT32": np.int32,
    "FP32": np.float32,
    "UINT64": np.uint64,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def tensors(fields: Mapping[str, Any]) -> list[Any]:
    """Inputs of the front model from plain values."""
    inputs = []
    for name, value in fields.items():
        datatype = INPUTS[name].datatype
        values = value if isinstance(value, list) else [value]
        if datatype == "BYTES":
            array = np.array([[str(one).encode() for one in values]], dtype=object)
        else:
            array = np.array([values], dtype=NUMPY[datatype])
        tensor = triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


class Front:
    """One gRPC stream to a server."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address)
        self._replies: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._client.start_stream(lambda result, error: self._replies.put((result, error)))

    def ask(self, model: str = "ensemble", **fields: Any) -> Answer:
        """The answer of ``model`` to one request."""
        [answer] = self.ask_all([fields], model)
        return answer

    def ask_all(self, requests: Sequence[Mapping[str, Any]], model: str = "ensemble") -> list[Answer]:
        """The answers to ``requests``, sent at once."""
        for number, fields in enumerate(requests):
            self._client.async_stream_infer(
                model, tensors(fields), request_id=str(number + 1), enable_empty_final_response=True
            )
        answers = [Answer() for _ in requests]
        left = len(requests)
        while left:
            result, error = self._replies.get(timeout=60)
            if error is not None:
                assert len(requests) == 1, error
                answers[0].error = error.message()
                return answers
            response = result.get_response()
            answer = answers[int(response.id) - 1]
            if response.outputs:
                answer.responses.append({one.name: result.as_numpy(one.name) for one in response.outputs})
                answer.arrivals.append(time.perf_counter())
            left -= response.parameters["triton_final_response"].bool_param
        return answers

    def send(self, fields: Mapping[str, Any], model: str = "ensemble") -> None:
        """Send a request and do not wait."""
        self._client.async_stream_infer(model, tensors(fields), request_id="1")

    def wait(self) -> None:
        """Return with the next response, whatever it is."""
        self._replies.get(timeout=60)

    def close(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def metric(server: RunningServer, name: str, **labels: str) -> float:
    """Sum of ``specbuild_NAME`` over its labels; models publish their counts four times a second."""
    text = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(f"specbuild_{name}{{") and all(part in line for part in wanted)
    )


def pair_and_target(front: Front, prompt: str, **fields: Any) -> tuple[list[int], list[int]]:
    """The tokens of the pair, and those of the target alone."""
    drafts = {"num_draft_tokens": fields.pop("num_draft_tokens")} if "num_draft_tokens" in fields else {}
    fields |= {"text_input": prompt, "exclude_input_in_output": True}
    return front.ask(**fields, **drafts).tokens, front.ask("ensemble_baseline", **fields).tokens
