# SPDX-License-Identifier: Apache-2.0
"""A request with ``stop`` ends the one with its id, whether its model is decoupled or not."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from specbuild.config import Config
from specbuild.repository import modelconfig
from specbuild.server import RunningServer
from support.rehearsal import rehearsed, settings_for
from support.synthetic import tiny_pair

LENGTH = 400
Answer = dict[str, Any]


def one_response(settings: Config) -> None:
    """As NVIDIA's template is filled in where nobody streams: the target's model answers once."""
    folder = settings.repository_dir / "tensorrt_llm"
    message = modelconfig.read(folder)
    message.model_transaction_policy.decoupled = False
    (folder / modelconfig.FILE).write_text(modelconfig.render(message))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    pair, output = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("deployment")
    with rehearsed(settings_for(tiny_pair(pair), output), pass_ms=10, change=one_response) as running:
        yield running


class Engine:
    """One stream of requests to an engine's model."""

    def __init__(self, address: str, model: str) -> None:
        self._client = triton.InferenceServerClient(address)
        self._model = model
        self._replies: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._client.start_stream(lambda result, error: self._replies.put((result, error)))

    @property
    def decoupled(self) -> bool:
        config = self._client.get_model_config(self._model).config
        return bool(config.model_transaction_policy.decoupled)

    def send(self, name: str, *, stop: bool) -> None:
        values = {
            "input_ids": np.array([[1, 5, 9, 13]], np.int32),
            "input_lengths": np.array([[4]], np.int32),
            "request_output_len": np.array([[LENGTH]], np.int32),
            "exclude_input_in_output": np.array([[True]]),
        } | ({"stop": np.array([[True]])} if stop else {})
        inputs = []
        for key, value in values.items():
            datatype = "BOOL" if value.dtype == np.bool_ else "INT32"
            inputs.append(triton.InferInput(key, list(value.shape), datatype))
            inputs[-1].set_data_from_numpy(value)
        outputs = [triton.InferRequestedOutput(key) for key in ("output_ids", "sequence_length")]
        self._client.async_stream_infer(
            self._model, inputs, request_id=name, outputs=outputs, enable_empty_final_response=True
        )

    def reply(self) -> tuple[Any, str]:
        """The next response and its error."""
        result, error = self._replies.get(timeout=60)
        return result, "" if error is None else error.message()

    def close(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


@pytest.fixture(params=["tensorrt_llm", "tensorrt_llm_draft"])
def engine(server: RunningServer, request: pytest.FixtureRequest) -> Iterator[Engine]:
    stream = Engine(server.grpc, request.param)
    assert stream.decoupled is (request.param == "tensorrt_llm_draft")
    yield stream
    stream.close()


def test_stop_ends_the_request_of_its_id_and_no_other(engine: Engine) -> None:
    for name, stop in (("7", False), ("8", False), ("7", True)):
        engine.send(name, stop=stop)
    lengths: dict[str, list[int]] = {"7": [], "8": []}
    for _ in range(3):
        result, error = engine.reply()
        assert not error
        ids = result.as_numpy("output_ids")
        lengths[result.get_response().id].append(0 if ids is None else ids.shape[-1])
    # The request with `stop` is answered too, with nothing in it.
    assert min(lengths["7"]) == 0 and max(lengths["7"]) < LENGTH
    assert lengths["8"] == [LENGTH]


def test_stop_without_an_id_is_refused_and_one_without_a_request_is_not(engine: Engine) -> None:
    engine.send("", stop=True)
    assert "request ID is not provided" in engine.reply()[1]
    engine.send("nobody", stop=True)
    assert not engine.reply()[1]
