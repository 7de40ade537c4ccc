# SPDX-License-Identifier: Apache-2.0
"""Triton model ``torch``: speculative decoding by specbuild's torch runtime, many requests at a time."""

import functools
import json
from pathlib import Path

import generation
import triton_python_backend_utils as pb_utils
from delivery import ClientGoneError, Delivery, Dispatcher
from meter import TritonMeter  # the file of the model ``speculative``; `specbuild repository` brings it here

from specbuild.errors import EngineError
from specbuild.torch_runtime import Engine, QueueFullError, Settings

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


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
            Path(parameters["target_dir"]), Path(draft) if draft else None, self.settings
        )
        meter = EngineMeter(args["model_name"], self.engine, self.settings.draft_length)
        self.dispatcher = Dispatcher(pb_utils.Logger.log_error, meter)

    def execute(self, requests):
        for request in requests:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            sender = request.get_response_sender()
            if "stop" in inputs and inputs["stop"].any():
                self.stop(inputs)
                sender.send(flags=FINAL)
            else:
                self.submit(inputs, Reply(sender))

    def stop(self, inputs):
        if "request_key" in inputs:
            self.dispatcher.stop(inputs["request_key"].item())

    def submit(self, inputs, reply):
        """Returns at once; what the engine says goes out through the dispatcher."""
        try:
            job = generation.job(
                inputs, exclude_input=self.exclude_input, draft_length=self.settings.draft_length
            )
            delivery = Delivery(job, reply)
            ticket = self.engine.submit(
                job.request,
                on_chunk=functools.partial(self.dispatcher.chunk, delivery),
                on_error=functools.partial(self.dispatcher.error, delivery),
            )
        except QueueFullError as error:
            self.refuse(reply, error)
        except EngineError as error:
            self.refuse(reply, generation.InputError(f"{error.message}. {error.remedy}"))
        except Exception as error:  # a request must get an answer, whatever happens
            self.refuse(reply, error)
        else:
            self.dispatcher.accepted(delivery, ticket)

    def refuse(self, reply, error):
        self.dispatcher.refused()
        reply.fail(error)

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
    )


class EngineMeter(TritonMeter):
    """The counters of ``speculative``, for the same dashboard; the engine knows how many requests there are."""

    def __init__(self, model, engine, max_draft_length):
        super().__init__(model, max_draft_length)
        self.engine = engine

    def flush(self):
        status = self.engine.status()
        self.requests(status.active, status.waiting)
        super().flush()


class Reply:
    """A Triton response sender as the dispatcher knows it."""

    def __init__(self, sender):
        self.sender = sender

    def send(self, tensors, *, final):
        response = pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in tensors.items()]
        )
        # Content and FINAL together: the aio client cannot see an empty final response.
        self.sender.send(response, flags=FINAL if final else 0)

    def fail(self, error):
        if isinstance(error, ClientGoneError):
            # Nobody reads it, and an error after a chunk would keep an ensemble's request open for ever.
            self.sender.send(flags=FINAL)
            return
        self.sender.send(pb_utils.InferenceResponse(error=triton_error(error)), flags=FINAL)

    def gone(self):
        return self.sender.is_cancelled()


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
