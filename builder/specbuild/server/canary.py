# SPDX-License-Identifier: Apache-2.0
"""One small inference through the front model: the only proof that a server answers.

Triton calls a server ready whose Python models have died, or whose configuration was empty.
"""

from __future__ import annotations

import queue
from typing import Any

import numpy as np

from specclient.protocol import FRONT_MODEL

_PROMPT = "canary"


def sing(address: str, timeout_s: float) -> str | None:
    """None when the server at ``address`` (gRPC) generated a token within ``timeout_s``, else the reason."""
    import tritonclient.grpc as triton

    replies: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    # The server is on this machine, which a proxy of the environment (http_proxy) cannot reach.
    client = triton.InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)])
    answered = False
    try:
        # Without a deadline of its own: which of the two came first would be chance.
        client.start_stream(lambda result, error: replies.put((result, error)))
        client.async_stream_infer(FRONT_MODEL, _inputs(triton), request_id=_PROMPT)
        result, error = replies.get(timeout=timeout_s)
        answered = True
        if error is not None:
            return str(error)
        return None if result.as_numpy("num_output_tokens").item() == 1 else "the canary got no token"
    except queue.Empty:
        return f"no answer within {timeout_s:.0f} s"
    except triton.InferenceServerException as error:
        return str(error)
    finally:
        # tritonserver 2.51 keeps a request that is cancelled after its end, and is then slow to stop.
        client.stop_stream(cancel_requests=not answered)
        client.close()


def _inputs(triton: Any) -> list[Any]:
    values = {
        "text_input": np.array([[_PROMPT.encode()]], dtype=object),
        "max_tokens": np.array([[1]], dtype=np.int32),
    }
    types = {"text_input": "BYTES", "max_tokens": "INT32"}
    tensors = []
    for name, value in values.items():
        tensor = triton.InferInput(name, list(value.shape), types[name])
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    return tensors
