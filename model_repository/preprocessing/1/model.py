# SPDX-License-Identifier: Apache-2.0
"""Triton model ``preprocessing``: checks a request's text fields and turns them into token ids."""

import json
import secrets
from pathlib import Path

import numpy as np
import prompt
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        if not parameters.get("tokenizer_dir"):
            raise ValueError("the parameter tokenizer_dir is not set: `specbuild repository` sets it")
        max_input_len = parameters.get("max_input_len")
        self.vocabulary = prompt.Vocabulary.load(
            Path(parameters["tokenizer_dir"]),
            add_special_tokens=parameters.get("add_special_tokens", "true") == "true",
            max_input_len=int(max_input_len) if max_input_len else None,
        )

    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        try:
            return pb_utils.InferenceResponse(self.tensors(request))
        except prompt.InputError as error:
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # keeps file names and lines out of the answer
            pb_utils.Logger.log_error(f"preprocessing failed: {type(error).__name__}: {error}")
            failure = pb_utils.TritonError("preprocessing failed; the server's log has the reason")
        return pb_utils.InferenceResponse(error=failure)

    def tensors(self, request):
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        rows = inputs["QUERY"].shape[0]
        if rows != 1:
            raise prompt.InputError(
                f"text_input: {rows} rows; a request is one prompt, send several as concurrent requests"
            )
        ids = self.vocabulary.prompt(inputs["QUERY"].item())
        max_tokens = inputs["REQUEST_OUTPUT_LEN"]
        if max_tokens.item() < 1:
            raise prompt.InputError(f"max_tokens: {max_tokens.item()}, at least 1 is needed")
        stop = self.words(inputs, "STOP_WORDS_DICT", "stop_words")
        end_ids = self.vocabulary.end_ids
        if "END_ID" in inputs:
            end_id = inputs["END_ID"]
        else:
            # The tensor holds one id; a model's other end tokens are stop sequences of one token.
            end_id = column(end_ids[0] if end_ids else -1)
            stop += [[token_id] for token_id in end_ids[1:]]
        return [
            pb_utils.Tensor("INPUT_ID", np.array([ids], dtype=np.int32)),
            pb_utils.Tensor("REQUEST_INPUT_LEN", column(len(ids))),
            pb_utils.Tensor("REQUEST_OUTPUT_LEN", max_tokens),
            pb_utils.Tensor("STOP_WORDS_IDS", prompt.word_list(stop)),
            pb_utils.Tensor(
                "BAD_WORDS_IDS", prompt.word_list(self.words(inputs, "BAD_WORDS_DICT", "bad_words"))
            ),
            pb_utils.Tensor("OUT_END_ID", end_id),
            pb_utils.Tensor("OUT_PAD_ID", inputs.get("PAD_ID", column(self.vocabulary.pad_id))),
            # By this key postprocessing stops the generation when the client has gone.
            pb_utils.Tensor("REQUEST_KEY", np.array([[secrets.randbits(63)]], dtype=np.uint64)),
        ]

    def words(self, inputs, name, field):
        return self.vocabulary.words(inputs[name].reshape(-1).tolist(), field) if name in inputs else []


def column(value):
    return np.array([[value]], dtype=np.int32)
