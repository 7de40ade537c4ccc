# SPDX-License-Identifier: Apache-2.0
"""Answers every request at once with one token: what is left is the cost of client, wire and server."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """A decoupled model that does nothing."""

    def initialize(self, _args):
        """The answer is the same for all."""
        self._answer = [
            pb_utils.Tensor("text_output", np.array([[b"a"]], dtype=np.object_)),
            pb_utils.Tensor("num_output_tokens", np.array([[1]], dtype=np.int32)),
        ]

    def execute(self, requests):
        """One response for each request, which is its last."""
        for request in requests:
            request.get_response_sender().send(
                pb_utils.InferenceResponse(self._answer), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            )
