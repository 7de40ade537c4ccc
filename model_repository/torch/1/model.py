# SPDX-License-Identifier: Apache-2.0
"""Triton model ``torch``: speculative decoding by specbuild's torch runtime, many requests at a time."""

import functools
import json
import os
from pathlib import Path

import generation
import triton_python_backend_utils as pb_utils
from caller import Caller  # like meter, a file of the model ``speculative``: `specbuild repository` brings it
from delivery import Delivery, Dispatcher
from meter import TritonMeter

from specbuild.errors import EngineError
from specbuild.torch_runtime import Engine, QueueFullError, Settings


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        if not parameters.get("target_dir"):
            raise ValueError("the parameter target_dir is not set: `specbuild repository` sets it")
        self.exclude_input = parameters.get("exclude_input_in_output", "true") == "true"
        self.settings = settings(parameters)
        draft = parameters["draft_dir"]
        self.engine = Engine.load(
            Path(parameters["target_dir"]),
            Path(draft) if draft else None,
            self.settings,
            on_lost=self.lose,
        )
        meter = EngineMeter(args["model_name"], self.engine, self.settings.draft_length)
        self.dispatcher = Dispatcher(pb_utils.Logger.log_error, meter)

    def lose(self):
        """A process that has lost its GPU cannot get it back: say so to all, and let Triton start another."""
        self.dispatcher.close()
        os._exit(1)

    def execute(self, requests):
        for request in requests:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            key = inputs["request_key"].item() if "request_key" in inputs else None
            requester = Requester(request.get_response_sender(), key)
            if "stop" in inputs and inputs["stop"].any():
                if key is not None:
                    self.dispatcher.stop(key)
                requester.leave()
            else:
                self.submit(inputs, requester)

    def submit(self, inputs, requester):
        """Returns at once; what the engine says goes out through the dispatcher."""
        try:
            job = generation.job(
                inputs, exclude_input=self.exclude_input, draft_length=self.settings.draft_length
            )
            delivery = Delivery(job, requester)
            ticket = self.engine.submit(
                job.request,
                on_chunk=functools.partial(self.dispatcher.chunk, delivery),
                on_error=functools.partial(self.dispatcher.error, delivery),
            )
        except QueueFullError as error:
            self.refuse(requester, error)
        except EngineError as error:
            self.refuse(requester, generation.InputError(f"{error.message}. {error.remedy}"))
        except Exception as error:  # a request must get an answer, whatever happens
            self.refuse(requester, error)
        else:
            self.dispatcher.accepted(delivery, ticket)

    def refuse(self, requester, error):
        self.dispatcher.refused()
        requester.fail(error)

    def finalize(self):
        self.engine.close()
        self.dispatcher.close()


def settings(parameters):
    """The engine's settings from the model's parameters, all of them text."""
    threads = parameters.get("threads")
    return Settings(
        draft_length=int(parameters["draft_length"]),
        adaptive=parameters["adaptive"] == "true",
        max_batch_size=int(parameters["max_batch_size"]),
        max_input_len=int(parameters["max_input_len"]),
        max_seq_len=int(parameters["max_seq_len"]),
        max_queue_size=int(parameters["max_queue_size"]),
        prefill_chunk=int(parameters["prefill_chunk"]),
        device=parameters["device"],
        threads=int(threads) if threads else None,
        target_quantization=parameters.get("target_quantization") or None,
        draft_quantization=parameters.get("draft_quantization") or None,
    )


class EngineMeter(TritonMeter):
    """The counters of ``speculative``, with the engine's own number of requests."""

    def __init__(self, model, engine, max_draft_length):
        super().__init__(model, max_draft_length)
        self.engine = engine

    def flush(self):
        status = self.engine.status()
        self.requests(status.active, status.waiting)
        super().flush()


class Requester(Caller):
    """A caller as the dispatcher knows it."""

    def fail(self, error):
        self.refuse(triton_error(error))


def triton_error(error):
    """What the client gets to read: never a path, a line or a prompt."""
    if isinstance(error, generation.InputError):
        return pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, QueueFullError):
        # Clients know a full queue, which may be tried again, by Triton's own words.
        return pb_utils.TritonError(
            f"Exceeds maximum queue size: {error.message}", pb_utils.TritonError.UNAVAILABLE
        )
    if isinstance(error, EngineError):
        return pb_utils.TritonError(error.message, pb_utils.TritonError.INTERNAL)
    pb_utils.Logger.log_error(f"torch failed: {type(error).__name__}: {error}")
    return pb_utils.TritonError(
        "the runtime failed; the server's log has the reason", pb_utils.TritonError.INTERNAL
    )
