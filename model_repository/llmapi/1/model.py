# SPDX-License-Identifier: Apache-2.0
"""Triton model ``llmapi``: the pair run by TensorRT-LLM's LLM API, many requests at a time.

The LLM API speculates by itself, with the arguments in model.yaml beside this file.
"""

import json
from pathlib import Path

import exchange
import triton_python_backend_utils as pb_utils
from caller import Caller  # a file of the model ``speculative``: `specbuild repository` brings it
from llm import Engine
from service import FullError, Service

# Names and labels are those of the model ``speculative``, where they mean the same.
COUNTERS = {
    "num_drafts_total": ("num_rounds", {}),
    "num_draft_tokens_total": ("total_draft_tokens", {}),
    "num_accepted_tokens_total": ("total_accepted_draft_tokens", {}),
    "num_rounds_total": ("num_rounds", {"kind": "draft"}),
    "num_generation_tokens_total": ("num_output_tokens", {}),
}


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.exclude_input = parameters["exclude_input_in_output"] == "true"
        self.engine = Engine(Path(__file__).with_name("model.yaml"))
        self.limits = exchange.Limits(
            max_input_len=int(parameters["max_input_len"]),
            max_seq_len=int(parameters["max_seq_len"]),
            draft_length=self.engine.draft_length,
        )
        self.service = Service(
            self.engine.start,
            draft_length=self.engine.draft_length,
            capacity=int(parameters["max_batch_size"]) + int(parameters["max_queue_size"]),
        )
        self.counters = Counters(args["model_name"]) if self.engine.draft_length else None

    def execute(self, requests):
        for request in requests:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            key = inputs["request_key"].item() if "request_key" in inputs else None
            requester = Requester(request.get_response_sender(), key, self.counters)
            if "stop" in inputs and inputs["stop"].any():
                if key is not None:
                    self.service.stop(key)
                requester.leave()
            else:
                self.submit(inputs, requester)

    def submit(self, inputs, requester):
        try:
            job = exchange.job(inputs, exclude_input=self.exclude_input, limits=self.limits)
        except Exception as error:  # a request must get an answer, whatever happens
            requester.fail(error)
        else:
            self.service.submit(job, requester)

    def finalize(self):
        self.service.close()
        self.engine.close()


class Counters:
    """Counts of all finished requests on Triton's metrics endpoint."""

    def __init__(self, model):
        self.metrics = []
        for name, (tensor, labels) in COUNTERS.items():
            family = pb_utils.MetricFamily(
                name=f"specbuild_spec_decode_{name}",
                description=f"Sum of {tensor} over all requests",
                kind=pb_utils.MetricFamily.COUNTER,
            )
            # The metric does not keep its family alive.
            self.metrics.append((tensor, family.Metric(labels={"model": model, **labels}), family))

    def add(self, tensors):
        for tensor, metric, _ in self.metrics:
            metric.increment(int(tensors[tensor].item()))


class Requester(Caller):
    """A caller as the service knows it."""

    def __init__(self, sender, key, counters):
        super().__init__(sender, key)
        self.counters = counters

    def send(self, tensors, *, final):
        if final and self.counters is not None:
            self.counters.add(tensors)
        super().send(tensors, final=final)

    def fail(self, error):
        self.refuse(triton_error(error))


def triton_error(error):
    """What the client gets to read: never a path, a line or a prompt."""
    if isinstance(error, exchange.InputError):
        return pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, FullError):
        # Clients know a full queue, which may be tried again, by Triton's own words.
        return pb_utils.TritonError(f"Exceeds maximum queue size: {error}", pb_utils.TritonError.UNAVAILABLE)
    pb_utils.Logger.log_error(f"llmapi failed: {type(error).__name__}: {error}")
    return pb_utils.TritonError(
        "the runtime failed; the server's log has the reason", pb_utils.TritonError.INTERNAL
    )
