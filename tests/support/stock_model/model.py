# SPDX-License-Identifier: Apache-2.0
"""Stands in for NVIDIA's stock models: takes their tensors, and says in its text what it got.

What the originals refuse is refused here (tensorrtllm_backend v0.19.0, tensorrt_llm_bls/1/lib/decode.py, and
the tensorrt_llm model, which streams in decoupled mode only).
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.outputs = {output["name"] for output in config["output"]}
        self.decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)
        self.accumulates = (
            config.get("parameters", {}).get("accumulate_tokens", {}).get("string_value") == "true"
        )

    def execute(self, requests):
        if not self.decoupled:
            return [self.responses(request)[-1] for request in requests]
        for request in requests:
            sender = request.get_response_sender()
            responses = self.responses(request)
            for response in responses[:-1]:
                sender.send(response)
            sender.send(responses[-1], flags=FINAL)
        return None

    def responses(self, request):
        got = {tensor.name(): plain(tensor.as_numpy()) for tensor in request.inputs()}
        error = self.refusal(got)
        if error:
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(error))]
        text = json.dumps(got)
        if not got.get("exclude_input_in_output", False):
            text = got["text_input"] + text
        if not got.get("stream", False):
            return [self.response(text)]
        parts = [text[:5], text[5:]]
        return [self.response(part) for part in ([parts[0], text] if self.accumulates else parts)]

    def refusal(self, got):
        if got.get("num_draft_tokens", 0) > 0 and "stream" not in got:
            return "'NoneType' object has no attribute 'any'"
        if got.get("num_draft_tokens", 0) > 0 and got["stream"]:
            return "streaming is not supported with speculative decoding"
        if got.get("stream", False) and not self.decoupled:
            return "Streaming is only supported in decoupled mode."
        return None

    def response(self, text):
        tensors = [pb_utils.Tensor("text_output", np.array([[text.encode()]], dtype=object))]
        if "num_output_tokens" in self.outputs:
            tensors.append(pb_utils.Tensor("num_output_tokens", np.array([[1]], dtype=np.int32)))
        return pb_utils.InferenceResponse(tensors)


def plain(array):
    values = [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]
    return values[0] if len(values) == 1 else values
