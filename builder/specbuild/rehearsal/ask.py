# SPDX-License-Identifier: Apache-2.0
"""One request to an engine, read from its tensors; refused in the backend's own words where it has some.

After NVIDIA/TensorRT-LLM, triton_backend/inflight_batcher_llm/src/utils.cc at 19290813 and
``GenericLlmRequest::validate`` (cpp/include/tensorrt_llm/batch_manager/llmRequest.h): lengths over the
engine's are refused for the prompt and for draft tokens, and shortened for the output.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from specbuild.rehearsal.limits import EngineLimits
from specbuild.torch_runtime import Request, Sampling

Tensors = Mapping[str, "np.ndarray[Any, Any]"]


class RefusedError(ValueError):
    """The engine does not take the request; the message is the backend's."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    text: tuple[int, ...]
    length: int
    drafted: tuple[int, ...]
    draft_logits: np.ndarray[Any, Any] | None
    """[drafted, vocabulary] float32."""
    threshold: float | None
    """Acceptance threshold; None draws one."""
    request: Request
    """The same for the torch runtime: sampling, bad words, min_tokens and end token."""
    end_id: int | None
    stop_words: tuple[tuple[int, ...], ...]
    bias: np.ndarray[Any, Any] | None
    """[vocabulary] float32."""
    streaming: bool
    exclude_input: bool
    log_probs: bool
    generation_logits: bool
    perf_metrics: bool
    num_input_tokens: bool
    num_output_tokens: bool


def read(tensors: Tensors, limits: EngineLimits) -> Ask:
    """The request in ``tensors``. Raises RefusedError, and the torch runtime's EngineError."""
    if "input_ids" not in tensors:
        raise RefusedError("input_ids or encoder_input_features is not present in the request.")
    if tensors["input_ids"].shape[0] != 1:
        raise RefusedError("Batch size > 1 is not part of the rehearsal; send the rows one by one")
    streaming = bool(_scalar(tensors, "streaming", False))
    if streaming and not limits.decoupled:
        raise RefusedError("Streaming is only supported if model is deployed using decoupled mode.")
    drafted = _ids(tensors, "draft_input_ids")
    text = _ids(tensors, "input_ids")[: _scalar(tensors, "input_lengths", None)]
    _require_supported(tensors, drafted, limits)
    drafted, length = _fit(text, drafted, int(_scalar(tensors, "request_output_len", 0)), limits)
    end_id = _scalar(tensors, "end_id", -1)
    return Ask(
        text=text,
        length=length,
        drafted=drafted,
        draft_logits=_draft_logits(tensors, len(drafted), limits),
        threshold=_scalar(tensors, "draft_acceptance_threshold", None),
        request=_request(tensors, text, length, end_id),
        end_id=None if end_id == -1 else end_id,
        stop_words=_word_list(tensors, "stop_words_list"),
        bias=_bias(tensors, limits),
        streaming=streaming,
        exclude_input=bool(_scalar(tensors, "exclude_input_in_output", limits.exclude_input)),
        log_probs=bool(_scalar(tensors, "return_log_probs", False)),
        generation_logits=bool(_scalar(tensors, "return_generation_logits", False)),
        perf_metrics=bool(_scalar(tensors, "return_perf_metrics", False)),
        num_input_tokens=bool(_scalar(tensors, "return_num_input_tokens", False)),
        num_output_tokens=bool(_scalar(tensors, "return_num_output_tokens", False)),
    )


def _require_supported(tensors: Tensors, drafted: tuple[int, ...], limits: EngineLimits) -> None:
    beams = int(_scalar(tensors, "beam_width", 1))
    if beams > limits.max_beam_width:
        raise RefusedError(
            f"Requested beam width {beams} is larger than configured max beam width {limits.max_beam_width}"
        )
    if beams > 1 and drafted:
        raise RefusedError("Draft tokens are not supported with beam search")
    if beams > 1 or _scalar(tensors, "num_return_sequences", 1) > 1:
        raise RefusedError("Several sequences per request are not part of the rehearsal")
    if _scalar(tensors, "return_context_logits", False):
        raise RefusedError(
            "context logits are not supported with draft tokens"
            if drafted
            else "Need to build engine with gather_context_logits to enable returning context logits"
        )
    if _scalar(tensors, "return_generation_logits", False) and not limits.generation_logits:
        raise RefusedError(
            "Need to build engine with gather_generation_logits to enable returning generation logits"
        )


def _fit(
    text: tuple[int, ...], drafted: tuple[int, ...], length: int, limits: EngineLimits
) -> tuple[tuple[int, ...], int]:
    """Draft tokens and output length as the engine can take them."""
    if not text:
        raise RefusedError("Prompt length (0) must be positive")
    if length < 1:
        raise RefusedError(f"max_tokens must be positive, but got {length}")
    if len(text) > limits.max_input_len:
        raise RefusedError(
            f"Prompt length ({len(text)}) exceeds maximum input length ({limits.max_input_len}). Set log "
            "level to info and check TRTGptModel logs for how maximum input length is set"
        )
    if len(drafted) > limits.max_draft_len:
        raise RefusedError(
            f"Draft tokens length ({len(drafted)}) exceeds maximum draft tokens length "
            f"({limits.max_draft_len})."
        )
    drafted = drafted[: limits.max_input_len - len(text)]
    # Without draft tokens the engine still keeps room for as many as it was built for.
    step = len(drafted) or limits.max_draft_len
    room = limits.max_seq_len - len(text) - step
    if room < 1:
        raise RefusedError(
            f"Prompt length ({len(text)}) leaves no room in the maximum sequence length "
            f"({limits.max_seq_len})"
        )
    return drafted, min(length, room)


def _draft_logits(tensors: Tensors, drafted: int, limits: EngineLimits) -> np.ndarray[Any, Any] | None:
    if "draft_logits" not in tensors or not drafted:
        return None
    shape = tensors["draft_logits"].shape
    logits = tensors["draft_logits"].reshape(shape[-2:])
    if logits.shape[1] != limits.vocab_size:
        raise RefusedError(
            f"Draft logits have {logits.shape[1]} columns, the vocabulary has {limits.vocab_size}"
        )
    if logits.shape[0] < drafted:
        raise RefusedError(f"There are {logits.shape[0]} rows of draft logits for {drafted} draft tokens")
    return logits[:drafted].astype(np.float32)


def _bias(tensors: Tensors, limits: EngineLimits) -> np.ndarray[Any, Any] | None:
    bias = tensors.get("embedding_bias")
    if bias is None or not bias.size:
        return None
    if bias.size != limits.vocab_size:
        raise RefusedError(
            f"embedding bias must be of size vocab_size ({limits.vocab_size}), but got {bias.size}"
        )
    return bias.reshape(-1).astype(np.float32)


def _request(tensors: Tensors, text: tuple[int, ...], length: int, end_id: int) -> Request:
    return Request(
        prompt=text,
        max_tokens=length,
        sampling=_sampling(tensors),
        end_ids=frozenset({end_id} - {-1}),
        min_tokens=int(_scalar(tensors, "min_tokens", 0)),
    )


def _sampling(tensors: Tensors) -> Sampling:
    """Greedy unless top_k or top_p asks otherwise (cpp/tensorrt_llm/layers, regularizeTopKTopP)."""
    top_k = max(int(_scalar(tensors, "runtime_top_k", 0)), 0)
    top_p = min(max(float(_scalar(tensors, "runtime_top_p", 0.0)), 0.0), 1.0)
    greedy = top_k == 0 and top_p == 0.0
    return Sampling(
        temperature=0.0 if greedy else float(_scalar(tensors, "temperature", 1.0)),
        top_k=top_k,
        top_p=top_p or 1.0,
        repetition_penalty=float(_scalar(tensors, "repetition_penalty", 1.0)),
        presence_penalty=float(_scalar(tensors, "presence_penalty", 0.0)),
        frequency_penalty=float(_scalar(tensors, "frequency_penalty", 0.0)),
        seed=int(_scalar(tensors, "seed", 0)),  # the runtime's own default, so that runs repeat
        bad_words=_word_list(tensors, "bad_words_list"),
    )


def _scalar(tensors: Tensors, name: str, default: Any) -> Any:
    if name not in tensors:
        return default
    if tensors[name].size != 1:
        raise RefusedError(f"Invalid size for tensor {name}")
    return tensors[name].item()


def _ids(tensors: Tensors, name: str) -> tuple[int, ...]:
    return tuple(tensors[name].reshape(-1).tolist()) if name in tensors else ()


def _word_list(tensors: Tensors, name: str) -> tuple[tuple[int, ...], ...]:
    """utils.cc, convertWordList: ids, and where each word ends, padded with -1."""
    if name not in tensors or not tensors[name].size:
        return ()
    ids, ends = tensors[name].reshape(2, -1).tolist()
    ends = ends[: ends.index(-1)] if -1 in ends else ends
    if any(end > len(ids) for end in ends):
        raise RefusedError("Sparse list must not have out-of-bound offsets")
    if any(later <= earlier for earlier, later in itertools.pairwise(ends)):
        raise RefusedError("Sparse list must not have non-increasing offsets")
    return tuple(tuple(ids[start:end]) for start, end in zip([0, *ends][:-1], ends, strict=True))
