# SPDX-License-Identifier: Apache-2.0
"""The wire contract of the front model ``ensemble``: tensor names, types and limits.

Names, types and shapes are NVIDIA's (TensorRT-LLM ``triton_backend/all_models/inflight_batcher_llm/
ensemble/config.pbtxt`` of the 1.2 line), so that their clients work unchanged; ours are marked. Every
tensor has a leading batch dimension of 1: a request is one prompt, and the server batches requests in
flight. With ``stream`` true each response is one chunk, else the only response holds everything.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

FRONT_MODEL = "ensemble"

MAX_TEXT_BYTES = 4 << 20
"""Largest prompt in bytes; gRPC itself has no limit on a request."""

FinishReason = Literal["stop", "length"]
"""stop: an end token or a stop sequence; length: ``max_tokens`` or the end of the context window."""


class Tensor(NamedTuple):
    """A tensor's Triton type and its shape without the batch dimension; -1 is any size."""

    datatype: str
    shape: tuple[int, ...]


INPUTS: dict[str, Tensor] = {
    "text_input": Tensor("BYTES", (1,)),
    "max_tokens": Tensor("INT32", (1,)),
    "num_return_sequences": Tensor("INT32", (1,)),
    "bad_words": Tensor("BYTES", (-1,)),
    "stop_words": Tensor("BYTES", (-1,)),
    "exclude_input_in_output": Tensor("BOOL", (1,)),
    "end_id": Tensor("INT32", (1,)),
    "pad_id": Tensor("INT32", (1,)),
    "top_k": Tensor("INT32", (1,)),
    "top_p": Tensor("FP32", (1,)),
    "temperature": Tensor("FP32", (1,)),
    "length_penalty": Tensor("FP32", (1,)),
    "repetition_penalty": Tensor("FP32", (1,)),
    "min_tokens": Tensor("INT32", (1,)),
    "presence_penalty": Tensor("FP32", (1,)),
    "frequency_penalty": Tensor("FP32", (1,)),
    "seed": Tensor("UINT64", (1,)),
    "return_log_probs": Tensor("BOOL", (1,)),
    "return_context_logits": Tensor("BOOL", (1,)),
    "return_generation_logits": Tensor("BOOL", (1,)),
    "return_perf_metrics": Tensor("BOOL", (1,)),
    "return_num_input_tokens": Tensor("BOOL", (1,)),
    "return_num_output_tokens": Tensor("BOOL", (1,)),
    "beam_width": Tensor("INT32", (1,)),
    "stream": Tensor("BOOL", (1,)),
    # NVIDIA's name in its BLS model; 0 turns speculation off for the request.
    "num_draft_tokens": Tensor("INT32", (1,)),
}

STOCK_INPUTS: dict[str, Tensor] = {
    # Of NVIDIA's own ensemble and tensorrt_llm_bls, which `ensemble` here does not have.
    "embedding_bias_words": Tensor("BYTES", (-1,)),
    "embedding_bias_weights": Tensor("FP32", (-1,)),
    "lora_task_id": Tensor("UINT64", (1,)),
    "guided_decoding_guide_type": Tensor("BYTES", (1,)),
    "guided_decoding_guide": Tensor("BYTES", (1,)),
    "use_draft_logits": Tensor("BOOL", (1,)),
    # Their names up to tensorrtllm_backend 0.19, for seed and min_tokens.
    "random_seed": Tensor("UINT64", (1,)),
    "min_length": Tensor("INT32", (1,)),
}

RENAMED = {"seed": "random_seed", "min_tokens": "min_length"}
"""Input -> its name in the older generation of NVIDIA's repositories."""

OUTPUTS: dict[str, Tensor] = {
    "text_output": Tensor("BYTES", (-1,)),
    "cum_log_probs": Tensor("FP32", (-1,)),
    "output_log_probs": Tensor("FP32", (-1, -1)),
    "context_logits": Tensor("FP32", (-1, -1)),
    "generation_logits": Tensor("FP32", (-1, -1, -1)),
    "batch_index": Tensor("INT32", (1,)),
    "sequence_index": Tensor("INT32", (1,)),
    "kv_cache_alloc_new_blocks": Tensor("INT32", (1,)),
    "kv_cache_reused_blocks": Tensor("INT32", (1,)),
    "kv_cache_alloc_total_blocks": Tensor("INT32", (1,)),
    "arrival_time_ns": Tensor("INT64", (1,)),
    "first_scheduled_time_ns": Tensor("INT64", (1,)),
    "first_token_time_ns": Tensor("INT64", (1,)),
    "last_token_time_ns": Tensor("INT64", (1,)),
    "acceptance_rate": Tensor("FP32", (1,)),
    "total_accepted_draft_tokens": Tensor("INT32", (1,)),
    "total_draft_tokens": Tensor("INT32", (1,)),
    "num_input_tokens": Tensor("INT32", (1,)),
    "num_output_tokens": Tensor("INT32", (1,)),
    # Ours. Counts cover the whole request so far, not one round.
    "output_ids": Tensor("INT32", (-1,)),  # the chunk's tokens
    "num_rounds": Tensor("INT32", (1,)),
    "finish_reason": Tensor("BYTES", (1,)),  # empty until the last chunk
}
