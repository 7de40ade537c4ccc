# SPDX-License-Identifier: Apache-2.0
"""Times calls to an engine that does nothing, each from one thread's event loop and one after the other."""

import asyncio
import time

import numpy as np
import triton_python_backend_utils as pb_utils

PAUSE_S = 0.01
"""About an engine's pass: by then everybody sleeps who waits."""


class TritonPythonModel:
    """Answers with the seconds of each call."""

    def execute(self, requests):
        """Every request says how many calls it wants."""
        responses = []
        for request in requests:
            calls = int(pb_utils.get_input_tensor_by_name(request, "calls").as_numpy()[0])
            seconds = np.array(asyncio.run(timed(calls)), dtype=np.float32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("seconds", seconds)]))
        return responses


async def timed(calls):
    """Seconds of each of ``calls``."""
    seconds = []
    for _ in range(calls):
        await asyncio.sleep(PAUSE_S)
        start = time.perf_counter()
        await one()
        seconds.append(time.perf_counter() - start)
    return seconds


async def one():
    """One call with the inputs of a call to the draft, to the end of its answer."""
    number, yes = np.ones((1, 1), dtype=np.int32), np.array([[True]])
    tensors = {
        "input_ids": np.zeros((1, 100), dtype=np.int32),
        "input_lengths": number,
        "request_output_len": number,
        "exclude_input_in_output": yes,
        "runtime_top_k": number,
    }
    request = pb_utils.InferenceRequest(
        model_name="idle_engine",
        requested_output_names=["output_ids", "sequence_length"],
        inputs=[pb_utils.Tensor(name, value) for name, value in tensors.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    for response in await request.async_exec(decoupled=True):
        [tensor.as_numpy() for tensor in response.output_tensors()]
