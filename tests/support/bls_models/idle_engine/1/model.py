# SPDX-License-Identifier: Apache-2.0
"""Answers every call at once with five tokens: what is left is the cost of a call between two models."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """A decoupled model that does nothing."""

    def initialize(self, _args):
        """The answer is the same for all."""
        self._ids = np.zeros((1, 1, 5), dtype=np.int32)
        self._length = np.array([[5]], dtype=np.int32)

    def execute(self, requests):
        """One response for each request, which is its last."""
        for request in requests:
            answer = [
                pb_utils.Tensor("output_ids", self._ids),
                pb_utils.Tensor("sequence_length", self._length),
            ]
            request.get_response_sender().send(
                pb_utils.InferenceResponse(answer), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            )
