# SPDX-License-Identifier: Apache-2.0
"""Triton backend ``tensorrtllm`` written in Python, for rehearsals: an engine played by the torch runtime.

Which weights play which model comes in the variable SPECBUILD_REHEARSAL_WEIGHTS, JSON from a model's name to
a folder in Hugging Face format. SPECBUILD_REHEARSAL_THREADS limits the threads of each model;
SPECBUILD_REHEARSAL_PACE_MS, JSON too, says how long a pass of a model takes at least.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from specbuild.errors import EngineError
from specbuild.rehearsal import limits
from specbuild.rehearsal.ask import Tensors
from specbuild.rehearsal.engine import RehearsalEngine

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
PREFIX = "specbuild_rehearsal_"


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        name = args["model_name"]
        weights = json.loads(os.environ["SPECBUILD_REHEARSAL_WEIGHTS"])[name]
        threads = os.environ.get("SPECBUILD_REHEARSAL_THREADS")
        pass_ms = json.loads(os.environ.get("SPECBUILD_REHEARSAL_PACE_MS", "{}")).get(name, 0)
        self.engine = RehearsalEngine.load(
            limits.read(json.loads(args["model_config"])),
            Path(weights),
            threads=int(threads) if threads else None,
            pass_s=pass_ms / 1000,
        )
        self.calls = Counter("calls_total", "Requests answered", name)
        self.seconds = Counter("call_seconds_total", "From a request's arrival to its answer", name)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            arrival = time.perf_counter()
            tensors = {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()}
            sender = request.get_response_sender()
            caller = Caller(sender, set(request.requested_output_names()), self, arrival)
            try:
                if "stop" in tensors and tensors["stop"].any():
                    self.stop(request.request_id())
                    # A response, if an empty one: NVIDIA's BLS waits for it, decoupled or not.
                    sender.send(pb_utils.InferenceResponse([]), flags=FINAL)
                else:
                    caller.require_outputs()
                    self.engine.submit(request.request_id(), tensors, caller)
            except Exception as error:  # a request must get an answer, whatever happens
                caller.fail(error)

    def stop(self, name: str) -> None:
        if not name:
            raise ValueError("Trying to stop a request but request ID is not provided")
        self.engine.stop(name)

    def count(self, seconds: float) -> None:
        self.calls.add(1)
        self.seconds.add(seconds)

    def finalize(self) -> None:
        self.engine.close()


class Counter:
    """A counter of one model; a metric ends with its family, so both are kept."""

    def __init__(self, name: str, text: str, model: str) -> None:
        self.family = pb_utils.MetricFamily(
            name=PREFIX + name, description=text, kind=pb_utils.MetricFamily.COUNTER
        )
        self.metric = self.family.Metric(labels={"model": model})

    def add(self, amount: float) -> None:
        self.metric.increment(amount)


class Caller:
    """A Triton response sender as the engine knows it."""

    def __init__(self, sender: Any, outputs: set[str], model: TritonPythonModel, arrival: float) -> None:
        self.sender = sender
        self.outputs = outputs
        self.model = model
        self.arrival = arrival

    def require_outputs(self) -> None:
        for name in ("output_ids", "sequence_length"):
            if name not in self.outputs:
                raise ValueError(f"{name} tensor must be present in list of output tensors")

    def send(self, tensors: Tensors, *, final: bool) -> None:
        response = pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in tensors.items() if name in self.outputs]
        )
        seconds = time.perf_counter() - self.arrival
        self.sender.send(response, flags=FINAL if final else 0)
        if final:  # afterwards: each counter costs a round trip to the server, which nobody should wait for
            self.model.count(seconds)

    def fail(self, error: Exception) -> None:
        # Like the backend, which has one code for everything.
        text = error.message if isinstance(error, EngineError) else str(error)
        failure = pb_utils.TritonError(text, pb_utils.TritonError.INTERNAL)
        self.sender.send(pb_utils.InferenceResponse(error=failure), flags=FINAL)

    def gone(self) -> bool:
        return bool(self.sender.is_cancelled())
