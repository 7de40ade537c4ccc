# SPDX-License-Identifier: Apache-2.0
"""What a model's own metadata says about the tensors that a request must hold. Pure.

Three kinds of front model answer to the same names, with differences that this module knows:

- specbuild's `ensemble` (any runtime);
- NVIDIA's stock `ensemble` and `tensorrt_llm_bls`, TensorRT-LLM 0.20 to 1.2;
- the same up to tensorrtllm_backend 0.19: `random_seed` and `min_length`, and no token counts.

A tensor that a model does not have must not be sent: over gRPC Triton refuses the request, and over HTTP
it takes the value for a parameter and ignores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specclient import protocol
from specclient.errors import InvalidRequest
from specclient.parameters import GenerationParameters

Tensors = dict[str, Sequence[Any]]
"""Name -> values without the batch dimension; text as bytes."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One model's side of the contract."""

    inputs: frozenset[str] = frozenset(protocol.INPUTS)
    outputs: frozenset[str] = frozenset(protocol.OUTPUTS)
    decoupled: bool = True
    """Whether the model may answer with several responses; without, an answer comes in one piece."""
    accumulates: bool = False
    """Whether each response repeats all text so far (`accumulate_tokens` of `tensorrt_llm_bls`)."""

    @property
    def counts_requests(self) -> bool:
        """Whether counts cover the whole request; `tensorrt_llm_bls` reports its last round's alone."""
        return "num_rounds" in self.outputs

    def streams(self, parameters: GenerationParameters) -> bool:
        """Whether the answer comes in chunks."""
        return self.decoupled and not self.speculates_in_one_piece(parameters)

    def speculates_in_one_piece(self, parameters: GenerationParameters) -> bool:
        """Whether NVIDIA's BLS loop runs, which refuses to stream and needs the prompt in its output."""
        return "use_draft_logits" in self.inputs and bool(parameters.num_draft_tokens)

    def tensors(self, prompt: bytes, parameters: GenerationParameters) -> Tensors:
        """What to send. Raises InvalidRequest for a parameter that the model does not have."""
        asked = {**_asked(prompt, parameters)}
        if not asked.get("num_draft_tokens", (0,))[0] and "num_draft_tokens" not in self.inputs:
            asked.pop("num_draft_tokens", None)  # a model that cannot speculate does what 0 asks for
        tensors = {self._name(name): values for name, values in asked.items()}
        lacking = tensors.keys() - self.inputs
        if lacking:
            raise InvalidRequest(
                f"the model has no input for {', '.join(sorted(lacking))}",
                remedy="Leave it out, or name a model that has it.",
            )
        # The loop slices what the target returns by the prompt's length.
        whole = self.speculates_in_one_piece(parameters)
        extras = {
            "return_num_input_tokens": True,
            "return_num_output_tokens": True,
            "exclude_input_in_output": not whole,
            "stream": self.streams(parameters),
        }
        return tensors | {name: [value] for name, value in extras.items() if name in self.inputs}

    def _name(self, name: str) -> str:
        older = protocol.RENAMED.get(name, name)
        return older if name not in self.inputs and older in self.inputs else name


def datatype(name: str) -> str:
    """The Triton type of an input of any generation."""
    return (protocol.INPUTS.get(name) or protocol.STOCK_INPUTS[name]).datatype


def _asked(prompt: bytes, parameters: GenerationParameters) -> Tensors:
    """The tensors that say what the caller said, by their newest names."""
    single = {
        "text_input": prompt,
        "max_tokens": parameters.max_tokens,
        "min_tokens": parameters.min_tokens,
        **_sampling(parameters),
        "seed": parameters.seed,
        "repetition_penalty": parameters.repetition_penalty,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "length_penalty": parameters.length_penalty,
        "num_draft_tokens": parameters.num_draft_tokens,
        "end_id": parameters.end_id,
        "pad_id": parameters.pad_id,
        "return_log_probs": parameters.return_log_probs or None,
        "lora_task_id": parameters.lora_task_id,
        "guided_decoding_guide_type": _bytes(parameters.guided_decoding_guide_type),
        "guided_decoding_guide": _bytes(parameters.guided_decoding_guide),
        "use_draft_logits": parameters.use_draft_logits,
    }
    tensors: Tensors = {name: [value] for name, value in single.items() if value is not None}
    lists: Tensors = {
        "stop_words": [word.encode() for word in parameters.stop],
        "bad_words": [word.encode() for word in parameters.bad_words],
        "embedding_bias_words": [word.encode() for word, _ in parameters.embedding_bias],
        "embedding_bias_weights": [bias for _, bias in parameters.embedding_bias],
    }
    return tensors | {name: values for name, values in lists.items() if values}


def _sampling(parameters: GenerationParameters) -> dict[str, float | int | None]:
    """Temperature, top-k and top-p as TensorRT-LLM needs them to mean what the caller said."""
    if parameters.temperature == 0:
        return {"top_k": 1}  # greedy for every runtime; a temperature of 0 is not accepted by all
    top_p = parameters.top_p
    if parameters.temperature is not None and parameters.top_k is None and top_p is None:
        # A temperature alone leaves TensorRT-LLM engines greedy: their default top_k is 1.
        top_p = 1.0
    return {"temperature": parameters.temperature, "top_k": parameters.top_k, "top_p": top_p}


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
