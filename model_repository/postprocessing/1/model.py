# SPDX-License-Identifier: Apache-2.0
"""Triton model ``postprocessing``: tokens to text, and the watch over clients that have gone.

Everything that the front model answers passes through here, because of how Triton's ensembles cancel:
when the client leaves, the running generation is not told, but each *later* step of the request is created
as a cancelled one (measured on 2.51; triton-inference-server/core pull request 263). So the first chunk
after the client left arrives here cancelled, and this model tells the generation to stop. A generation
that has nothing to say yet sends a chunk without tokens from time to time; it gets no answer, which only
a decoupled model can do, and Triton wants all outputs of an ensemble from one decoupled model.
"""

import json
from pathlib import Path

import detokenizer
import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
OWN_INPUTS = {"TOKENS_BATCH", "SEQUENCE_LENGTH", "CONTEXT_IDS", "IS_FINAL", "REQUEST_KEY"}
OWN_OUTPUTS = {"OUTPUT", "OUTPUT_IDS"}
FAILED = b"error: "
"""How finish_reason begins when a generation fails after its first response; the rest is for the client."""
EMPTY = {"TYPE_STRING": b"", "TYPE_INT32": 0, "TYPE_INT64": 0, "TYPE_FP32": 0.0}


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        if not parameters.get("tokenizer_dir"):
            raise ValueError("the parameter tokenizer_dir is not set: `specbuild repository` sets it")
        self.detokenizer = detokenizer.load(
            Path(parameters["tokenizer_dir"]),
            skip_special_tokens=parameters.get("skip_special_tokens", "true") == "true",
        )
        self.generator = parameters.get("generator", "")
        # A generation need not have every output of the front model; a single neutral value stands in.
        self.absent = {
            output["name"]: absent(output) for output in config["output"] if output["name"] not in OWN_OUTPUTS
        }

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.answer(request, sender)
            except Exception as error:  # a request must get an answer, whatever happens
                pb_utils.Logger.log_error(f"postprocessing failed: {type(error).__name__}: {error}")
                failure = pb_utils.TritonError("postprocessing failed; the server's log has the reason")
                sender.send(pb_utils.InferenceResponse(error=failure), flags=FINAL)

    def answer(self, request, sender):
        inputs = {tensor.name(): tensor for tensor in request.inputs()}
        if "REQUEST_KEY" in inputs and request.is_cancelled():
            self.stop(inputs["REQUEST_KEY"])
            # Nobody reads an answer, and an error here would keep the ensemble's request open for ever.
            sender.send(flags=FINAL)
            return
        if "finish_reason" in inputs:
            reason = inputs["finish_reason"].as_numpy().item()
            if reason.startswith(FAILED):
                failure = pb_utils.TritonError(reason.removeprefix(FAILED).decode())
                sender.send(pb_utils.InferenceResponse(error=failure), flags=FINAL)
                return
        values = {name: inputs[name].as_numpy() for name in OWN_INPUTS & inputs.keys()}
        final = bool(values["IS_FINAL"].item()) if "IS_FINAL" in values else True
        sequences = beams(values["TOKENS_BATCH"], values["SEQUENCE_LENGTH"])
        if not final and not any(sequences):
            sender.send(flags=FINAL)
            return
        context = values["CONTEXT_IDS"].reshape(-1) if "CONTEXT_IDS" in values else ()
        texts = [self.detokenizer.text(context, sequence, final=final) for sequence in sequences]
        outputs = [
            # One dimension, as NVIDIA's postprocessing answers: its clients index it so.
            pb_utils.Tensor("OUTPUT", np.array([text.encode("utf-8") for text in texts], dtype=object)),
            pb_utils.Tensor("OUTPUT_IDS", np.array([sequences[0]], dtype=np.int32)),
        ]
        outputs += [
            pb_utils.Tensor(name, inputs[name].as_numpy() if name in inputs else neutral)
            for name, neutral in self.absent.items()
        ]
        sender.send(pb_utils.InferenceResponse(outputs), flags=FINAL)

    def stop(self, key):
        """The generation of this request has ended, or ends with the round that is running."""
        request = pb_utils.InferenceRequest(
            model_name=self.generator,
            requested_output_names=[],
            inputs=[
                pb_utils.Tensor("request_key", key.as_numpy()),
                pb_utils.Tensor("stop", np.array([[True]])),
            ],
        )
        for _ in request.exec(decoupled=True):
            pass


def beams(tokens, lengths):
    """The token ids of each beam; the rest of a row is padding."""
    rows = tokens.reshape(lengths.size, tokens.shape[-1])
    return [row[:length].tolist() for row, length in zip(rows, lengths.reshape(-1), strict=True)]


def absent(output):
    """A neutral value of the output's type, with the batch dimension."""
    value = EMPTY[output["data_type"]]
    return np.full([1] * (1 + len(output["dims"])), value, dtype=object if value == b"" else None).astype(
        pb_utils.triton_string_to_numpy(output["data_type"])
    )
