# SPDX-License-Identifier: Apache-2.0
"""The way back to the sender of one request: a Triton response sender, whose ways to end a request are these.

An error behind an ensemble is a response like any other once something has been answered. Triton 2.51 never
ends an ensemble's request whose generation answers with an error after its client has left (measured: such a
request stays in flight, and the server waits for it when it stops). Whether the client is still there only
postprocessing can see, so the error goes to it as the reason of the end, and it tells the client.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
FAILED = "error: "
"""How finish_reason begins when the rest of it is for the client to read as an error."""


class Caller:
    """``key`` is the request's, None without an ensemble."""

    def __init__(self, sender: pb_utils.InferenceResponseSender, key: int | None) -> None:
        self._sender = sender
        self._key = key
        self._latest: Mapping[str, np.ndarray] | None = None

    def send(self, tensors: Mapping[str, np.ndarray], *, final: bool) -> None:
        self._latest = tensors
        response = pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in tensors.items()]
        )
        # Content and FINAL together: the aio client cannot see an empty final response.
        self._sender.send(response, flags=FINAL if final else 0)

    def leave(self) -> None:
        """End without a word: nobody listens any more, or nothing was asked."""
        self._sender.send(flags=FINAL)

    def refuse(self, error: pb_utils.TritonError) -> None:
        """End with ``error``."""
        if self._latest is None or self._key is None:
            self._sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
        else:
            self.send(failure(self._latest, error.message()), final=True)

    def gone(self) -> bool:
        """Whether the caller has left; behind an ensemble always false."""
        return bool(self._sender.is_cancelled())


def failure(latest: Mapping[str, np.ndarray], message: str) -> dict[str, np.ndarray]:
    """The response that ends a request with an error. An ensemble waits for every output: all are there."""
    return {
        **latest,
        "output_ids": np.zeros((1, 1, 0), dtype=np.int32),
        "sequence_length": np.zeros((1, 1), dtype=np.int32),
        "is_final": np.array([[True]]),
        "finish_reason": np.array([[(FAILED + message).encode()]], dtype=object),
    }
