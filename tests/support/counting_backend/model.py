# SPDX-License-Identifier: Apache-2.0
"""A backend ``tensorrtllm`` whose engines count upwards: just enough to answer, so that every draft is right.

It has the real backend's tensors for that; the rehearsal's backend is the one that honours all of them.
"""

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
VOCABULARY = 200


class TritonPythonModel:
    def initialize(self, args):
        pass

    def execute(self, requests):
        for request in requests:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            sender = request.get_response_sender()
            if "stop" in inputs:
                sender.send(flags=FINAL)
                continue
            answers = list(self.answers(inputs))
            for ids in answers[:-1]:
                sender.send(self.response(ids, inputs), flags=0)
            sender.send(self.response(answers[-1], inputs), flags=FINAL)

    def answers(self, inputs):
        """The token ids of each response: one each in a stream, else all, after the prompt if wanted."""
        prompt = inputs["input_ids"].reshape(-1).tolist()
        count = int(inputs["request_output_len"].item())
        tokens = [(prompt[-1] + 1 + index) % VOCABULARY for index in range(count)]
        if "streaming" in inputs and inputs["streaming"].item():
            yield from ([token] for token in tokens)
        elif "exclude_input_in_output" in inputs and inputs["exclude_input_in_output"].item():
            yield tokens
        else:
            yield prompt + tokens

    def response(self, ids, inputs):
        outputs = {
            "output_ids": np.array([[ids]], dtype=np.int32),
            "sequence_length": np.array([[len(ids)]], dtype=np.int32),
        }
        if "return_num_output_tokens" in inputs:
            outputs["num_output_tokens"] = inputs["request_output_len"].reshape(1, 1)
        return pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in outputs.items()])
