# SPDX-License-Identifier: Apache-2.0
"""The tensors of an engine's response, shaped as NVIDIA's backend shapes them.

After NVIDIA/TensorRT-LLM, triton_backend/inflight_batcher_llm/src/model_instance_state.cc at 0c8de69a
(``fillTritonResponse``): a response of a stream holds what is new, any other the whole text unless the
input is excluded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specbuild.rehearsal.work import Work

Array = np.ndarray[Any, Any]


def tensors(work: Work, tokens_per_block: int) -> dict[str, Array]:
    """The next response of ``work``; its new tokens count as sent."""
    ask, output = work.ask, work.output
    start, work.sent = work.sent, len(output)
    ids = output[start:] if ask.streaming else output
    if not (ask.streaming or ask.exclude_input):
        ids = [*ask.text, *ids]
    answer = {
        "output_ids": np.array(ids, dtype=np.int32)[None, None],
        "sequence_length": _int(len(ids)),
    }
    if ask.log_probs:
        log_probs = work.log_probs[start:] if ask.streaming else work.log_probs
        answer["output_log_probs"] = np.array(log_probs, dtype=np.float32)[None, None]
        answer["cum_log_probs"] = np.array([[sum(work.log_probs)]], dtype=np.float32)
    if ask.generation_logits and work.logits:
        rows = work.logits[start:] if ask.streaming else work.logits
        answer["generation_logits"] = np.stack(rows)[None, None]
    if ask.num_input_tokens:
        answer["num_input_tokens"] = _int(len(ask.text))
    if ask.num_output_tokens:
        answer["num_output_tokens"] = _int(len(ids))
    return answer | (_metrics(work, tokens_per_block) if ask.perf_metrics else {})


def _metrics(work: Work, tokens_per_block: int) -> dict[str, Array]:
    times = work.times
    total, reused = -(-len(work.text) // tokens_per_block), work.reused // tokens_per_block
    drafted = len(work.ask.drafted)
    return {
        "kv_cache_alloc_new_blocks": _int(total - reused),
        "kv_cache_reused_blocks": _int(reused),
        "kv_cache_alloc_total_blocks": _int(total),
        "arrival_time_ns": _long(times.arrival),
        "first_scheduled_time_ns": _long(times.first_scheduled),
        "first_token_time_ns": _long(times.first_token),
        "last_token_time_ns": _long(times.last_token),
        "acceptance_rate": np.array([[work.accepted / max(1, drafted)]], dtype=np.float32),
        "total_accepted_draft_tokens": _int(work.accepted),
        "total_draft_tokens": _int(drafted),
    }


def _int(value: int) -> Array:
    return np.array([[value]], dtype=np.int32)


def _long(value: int) -> Array:
    return np.array([[value]], dtype=np.int64)
