# SPDX-License-Identifier: Apache-2.0
"""``tensorrt_llm.SamplingParams``, as far as the model ``llmapi`` sets it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class SamplingParams:
    """The fields that a caller may set."""

    max_tokens: int = 32
    end_id: int | None = None
    pad_id: int | None = None
    bad_token_ids: list[int] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    seed: int | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    return_perf_metrics: bool = False
    detokenize: bool = True
