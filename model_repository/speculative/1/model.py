# SPDX-License-Identifier: Apache-2.0
"""Triton model ``speculative``: the loop of draft and target, for many requests at a time."""

import asyncio
import json
import time
from collections import deque

import triton_python_backend_utils as pb_utils
from asked import AskedError, Limits
from caller import Caller
from calls import Verification, stop_call
from conversation import EngineError, Health, House
from draft_length import Policy
from meter import TritonMeter
from reception import QueueFullError, Reception

QUEUE_FULL = "Exceeds maximum queue size"
NEEDS_DECOUPLED = "decoupled=True"
"""Part of what Triton answers to a call of the wrong kind."""
KEPT_S = 1.0
ENGINE_QUEUE_FULL = "Maximum queue size"
"""The beginning of TensorRT-LLM's own words for it (cpp/tensorrt_llm/executor/executorImpl.cpp)."""


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        limits = Limits(
            draft_length=int(parameters["max_draft_len"]),
            sequence=int(parameters["max_seq_len"]),
            exclude_input=parameters["exclude_input_in_output"] == "true",
        )
        meter = TritonMeter(args["model_name"], limits.draft_length)
        house = House(
            target=TritonEngine(parameters["tensorrt_llm_model_name"]),
            draft=TritonEngine(parameters["tensorrt_llm_draft_model_name"]),
            how=verification(parameters),
            policy=Policy(adaptive=parameters["adaptive"] == "true"),
            health=Health(),
            meter=meter,
            draft_timeout_s=int(parameters["draft_timeout_ms"]) / 1000,
        )
        self.reception = Reception(
            house,
            limits,
            meter,
            pb_utils.Logger.log_error,
            seats=int(parameters["max_batch_size"]),
            queue=int(parameters["max_queue_size"]),
        )

    def execute(self, requests):
        for request in requests:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            key = inputs["request_key"].item() if "request_key" in inputs else None
            caller = Requester(request.get_response_sender(), key)
            if "stop" in inputs and inputs["stop"].any():
                if key is not None:
                    self.reception.stop(key)
                caller.leave()
            else:
                self.reception.submit(inputs, caller)

    def finalize(self):
        self.reception.close()


def verification(parameters):
    return Verification(
        by_logits=parameters["acceptance"] == "logits",
        fast_logits=parameters["fast_logits"] == "true",
        vocab_size=int(parameters["vocab_size"]),
    )


class TritonEngine:
    """An engine's model on the same server."""

    def __init__(self, model):
        self.model = model
        self.decoupled = False
        self.kept = deque()

    async def generate(self, request_id, tensors, outputs):
        answer = {}
        for response in await self.responses(request_id, tensors, outputs):
            if response.has_error():
                raise EngineError(response.error().message())
            answer |= {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}
        return answer

    async def stop(self, request_id):
        await self.responses(request_id, stop_call(), ())

    async def responses(self, request_id, tensors, outputs):
        """All responses of the model, however it is configured."""
        if not self.decoupled:
            response = await self.call(self.request(request_id, tensors, outputs), decoupled=False)
            if not (response.has_error() and NEEDS_DECOUPLED in response.error().message()):
                return [response]
            self.decoupled = True
        iterator = await self.call(self.request(request_id, tensors, outputs), decoupled=True)
        responses = list(iterator)
        self.keep(iterator, responses)
        return responses

    async def call(self, request, *, decoupled):
        """What the model answers. When nobody waits for it any more it is read all the same: until then the
        call is under way for Triton, which waits for it when it stops."""
        answer = asyncio.ensure_future(request.async_exec(decoupled=decoupled))

        def read(done):
            if not done.cancelled() and done.exception() is None:
                self.keep(done.result(), list(done.result()) if decoupled else None)

        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(read)
            raise

    def request(self, request_id, tensors, outputs):
        return pb_utils.InferenceRequest(
            model_name=self.model,
            request_id=request_id,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(name, value) for name, value in tensors.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )

    def keep(self, *objects):
        """Hold on to a finished call for a while.

        Up to release 24.11 the Python backend's stub drops its own reference in a thread that does not own
        the interpreter; if that were the last one, arrays would be freed there, and the process would crash.
        """
        now = time.monotonic()
        self.kept.append((now, objects))
        while self.kept[0][0] < now - KEPT_S:
            self.kept.popleft()


class Requester(Caller):
    """A caller as the reception knows it."""

    def fail(self, error):
        self.refuse(triton_error(error))


def triton_error(error):
    """What the client gets to read: never a path, a line or a prompt."""
    if isinstance(error, AskedError):
        return pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, QueueFullError) or ENGINE_QUEUE_FULL in str(error):
        # Clients know a full queue, which may be tried again, by Triton's own words.
        return pb_utils.TritonError(f"{QUEUE_FULL}: {error}", pb_utils.TritonError.UNAVAILABLE)
    pb_utils.Logger.log_error(f"speculative failed: {type(error).__name__}: {error}")
    if isinstance(error, EngineError):
        return pb_utils.TritonError(
            "the target engine failed; the server's log has the reason", pb_utils.TritonError.INTERNAL
        )
    return pb_utils.TritonError(
        "the model failed; the server's log has the reason", pb_utils.TritonError.INTERNAL
    )
