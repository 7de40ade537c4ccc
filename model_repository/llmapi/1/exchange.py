# SPDX-License-Identifier: Apache-2.0
"""Tensors of a Triton request to a request of the LLM API, and its outputs back to tensors.

Names, shapes and defaults are those of NVIDIA's ``tensorrt_llm`` model (TensorRT-LLM 1.2,
``triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt``). Messages use the front model's
names, since the people who read them send those. Free of Triton and TensorRT-LLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FRONT_NAMES = {
    "request_output_len": "max_tokens",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    "input_ids": "text_input",
    "bad_words_list": "bad_words",
    "stop_words_list": "stop_words",
}
UNSUPPORTED = {
    "beam_width": (1, "beam search"),
    "num_return_sequences": (1, "several sequences per request"),
    "return_context_logits": (False, "context logits"),
    "return_generation_logits": (False, "generation logits"),
}
PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class InputError(ValueError):
    """The request cannot be served; the message is for its sender."""


@dataclass(frozen=True)
class Limits:
    """What the deployment accepts."""

    max_input_len: int
    max_seq_len: int
    draft_length: int
    """Draft tokens of every round; 0 without speculation."""


@dataclass(frozen=True)
class Job:
    """One request: what the LLM API is asked for, and how the answers are to be delivered."""

    prompt: list[int]
    max_tokens: int
    sampling: Mapping[str, Any]
    """Arguments of ``tensorrt_llm.SamplingParams``."""
    stop_sequences: tuple[tuple[int, ...], ...]
    """They end the request from ``min_tokens`` on; the one produced is part of the output."""
    min_tokens: int
    log_probs: bool
    streaming: bool
    exclude_input: bool
    key: int | None
    """Under which ``stop`` finds the request; None when nobody watches for the client's leaving."""


def job(tensors: Mapping[str, np.ndarray], *, exclude_input: bool, limits: Limits) -> Job:
    """The job that ``tensors`` ask for; ``exclude_input`` is the deployment's default. Raises InputError."""
    inputs = Inputs(tensors)
    _refuse_unsupported(inputs, limits)
    prompt = inputs.ids("input_ids")
    max_tokens = inputs.scalar("request_output_len", 0)
    _require_room(len(prompt), max_tokens, limits)
    min_tokens = inputs.scalar("min_tokens", 0)
    stop_sequences = inputs.word_list("stop_words_list")
    log_probs = inputs.scalar("return_log_probs", False)
    return Job(
        prompt=prompt,
        # The end of the context window is an end by length, as with TensorRT engines.
        max_tokens=min(max_tokens, limits.max_seq_len - len(prompt)),
        sampling=_sampling(inputs, stop_sequences, min_tokens, log_probs=log_probs),
        stop_sequences=stop_sequences,
        min_tokens=min_tokens,
        log_probs=log_probs,
        streaming=inputs.scalar("streaming", False),
        exclude_input=inputs.scalar("exclude_input_in_output", exclude_input),
        key=inputs.scalar("request_key"),
    )


class Inputs:
    """The tensors of a request, read as checked scalars and lists."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._tensors = tensors

    def scalar(self, name: str, default: Any = None) -> Any:
        """The single value of ``name``, or ``default`` when the request lacks it."""
        if name not in self._tensors:
            return default
        tensor = self._tensors[name]
        if tensor.size != 1:
            raise InputError(f"{front_name(name)}: {tensor.size} values, one is expected")
        return tensor.item()

    def ids(self, name: str) -> list[int]:
        if name not in self._tensors or not self._tensors[name].size:
            raise InputError(f"{front_name(name)}: missing")
        return list(self._tensors[name].reshape(-1).tolist())

    def word_list(self, name: str) -> tuple[tuple[int, ...], ...]:
        """The sequences in NVIDIA's layout [1, 2, n]: ids, and where each sequence ends (padded with -1)."""
        tensor = self._tensors.get(name)
        if tensor is None or not tensor.size:
            return ()
        if tensor.shape[:-1] != (1, 2):
            raise InputError(f"{front_name(name)}: the shape must be [1, 2, n], not {list(tensor.shape)}")
        ids, ends = tensor[0].tolist()
        ends = [end for end in ends if end != -1]
        starts = [0, *ends[:-1]]
        if any(not start < end <= len(ids) for start, end in zip(starts, ends, strict=True)):
            raise InputError(f"{front_name(name)}: the offsets must grow and stay within the ids")
        return tuple(tuple(ids[start:end]) for start, end in zip(starts, ends, strict=True))


def front_name(name: str) -> str:
    return FRONT_NAMES.get(name, name)


def _refuse_unsupported(inputs: Inputs, limits: Limits) -> None:
    for name, (neutral, feature) in UNSUPPORTED.items():
        if inputs.scalar(name, neutral) != neutral:
            raise InputError(
                f"{name}: {feature} is not available with the llmapi runtime; "
                f"leave it out or send {str(neutral).lower()}"
            )
    drafts = inputs.scalar("num_draft_tokens", limits.draft_length)
    if drafts != limits.draft_length:
        raise InputError(
            f"num_draft_tokens: {drafts}, but the LLM API drafts {limits.draft_length} tokens for every "
            "request; leave it out"
        )


def _require_room(prompt: int, max_tokens: int, limits: Limits) -> None:
    if max_tokens < 1:
        raise InputError(f"max_tokens: {max_tokens}, at least 1 is needed")
    if prompt > limits.max_input_len:
        raise InputError(f"text_input: {prompt} tokens, this deployment takes at most {limits.max_input_len}")
    if prompt >= limits.max_seq_len:
        raise InputError(f"text_input: {prompt} tokens leave no room in the context of {limits.max_seq_len}")


def _sampling(
    inputs: Inputs, stop_sequences: Sequence[Sequence[int]], min_tokens: int, *, log_probs: bool
) -> dict[str, Any]:
    """Arguments of SamplingParams. What a request leaves out is left to TensorRT-LLM.

    Greedy are: none of temperature, top_k and top_p; temperature 0; top_k 1; top_p 0.
    """
    temperature = inputs.scalar("temperature")
    top_k, top_p = inputs.scalar("runtime_top_k"), inputs.scalar("runtime_top_p")
    if temperature == 0 or top_p == 0 or (top_k is None and top_p is None and temperature is None):
        # Spelt out, since releases differ in what a temperature of 0 or a missing top_k means.
        chosen: dict[str, Any] = {"top_k": 1}
    else:
        chosen = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    chosen |= {name: inputs.scalar(name) for name in PENALTIES}
    chosen |= {
        "seed": inputs.scalar("seed"),
        "min_tokens": min_tokens or None,
        "end_id": inputs.scalar("end_id"),
        "pad_id": inputs.scalar("pad_id"),
        "bad_token_ids": _bad_tokens(inputs),
        # Longer stop sequences and minimum lengths are kept by this model: the LLM API takes text for them.
        "stop_token_ids": [ids[0] for ids in stop_sequences if len(ids) == 1] if min_tokens <= 1 else None,
        "logprobs": 1 if log_probs else None,
    }
    given = {name: value for name, value in chosen.items() if value is not None and value != []}
    return {**given, "detokenize": False, "include_stop_str_in_output": True, "return_perf_metrics": True}


def _bad_tokens(inputs: Inputs) -> list[int]:
    words = inputs.word_list("bad_words_list")
    if any(len(word) > 1 for word in words):
        raise InputError("bad_words: the llmapi runtime takes words of a single token only")
    return [word[0] for word in words]


@dataclass
class Step:
    """What the LLM API has said so far: an output of ``generate_async`` reduced to plain values."""

    token_ids: Sequence[int]
    finish_reason: str | None
    log_probs: Sequence[float] = ()
    iterations: int = 0
    drafted: int | None = None
    accepted: int | None = None
    times_ns: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What one response holds: the tokens since the last one and the figures of the whole request."""

    tokens: Sequence[int]
    context: Sequence[int]
    """The output tokens before ``tokens``."""
    output_tokens: int
    log_probs: Sequence[float]
    cumulative_log_prob: float
    finish_reason: str
    """Empty until the last response."""
    step: Step


class Transcript:
    """Turns the growing output of one request into answers: one for each step, or one for all."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._answered = 0
        self._seen = 0

    def add(self, step: Step) -> Answer | None:
        """The answer that ``step`` makes due; None while a request that does not stream goes on."""
        end, reason = self._end(step)
        tokens = list(step.token_ids[:end])
        if not reason and (not self._job.streaming or end == self._answered):
            return None
        start, self._answered = self._answered, end
        fresh = tokens[start:]
        if not (self._job.streaming or self._job.exclude_input):
            # Only then: what streams never holds the prompt (TensorRT-LLM, LlmRequest::createResult).
            fresh = self._job.prompt + fresh
        log_probs = list(step.log_probs[:end])
        return Answer(fresh, tokens[:start], end, log_probs[start:], sum(log_probs), reason, step)

    def _end(self, step: Step) -> tuple[int, str]:
        """How many tokens count, and why no more follow; an empty reason while there may be more."""
        tokens = step.token_ids
        for position in range(self._seen + 1, len(tokens) + 1):
            if position >= self._job.min_tokens and self._stops(tokens, position):
                return position, "stop"
        self._seen = len(tokens)
        return len(tokens), step.finish_reason or ""

    def _stops(self, tokens: Sequence[int], end: int) -> bool:
        return any(
            len(stop) <= end and tuple(tokens[end - len(stop) : end]) == stop
            for stop in self._job.stop_sequences
        )


def tensors(answer: Answer, job: Job, draft_length: int) -> dict[str, np.ndarray]:
    """The response's tensors, each with a leading batch dimension of 1."""
    step = answer.step
    rounds = step.iterations or answer.output_tokens
    accepted = max(0, answer.output_tokens - rounds) if step.accepted is None else step.accepted
    # Without metrics only the upper bound is known: the last round may have drafted less.
    drafted = rounds * draft_length if step.drafted is None else step.drafted
    return {
        "output_ids": np.array([[answer.tokens]], dtype=np.int32),
        "sequence_length": np.array([[len(answer.tokens)]], dtype=np.int32),
        "context_ids": np.array([answer.context], dtype=np.int32),
        "is_final": np.array([[bool(answer.finish_reason)]]),
        "request_key": np.array([[job.key or 0]], dtype=np.uint64),
        "cum_log_probs": np.array([[answer.cumulative_log_prob]], dtype=np.float32),
        "output_log_probs": np.array([[answer.log_probs or [0.0]]], dtype=np.float32),
        **{name: np.array([[step.times_ns.get(name, 0)]], dtype=np.int64) for name in TIMES},
        "acceptance_rate": np.array([[accepted / max(1, drafted)]], dtype=np.float32),
        "total_accepted_draft_tokens": np.array([[accepted]], dtype=np.int32),
        "total_draft_tokens": np.array([[drafted]], dtype=np.int32),
        "num_input_tokens": np.array([[len(job.prompt)]], dtype=np.int32),
        "num_output_tokens": np.array([[answer.output_tokens]], dtype=np.int32),
        "num_rounds": np.array([[rounds]], dtype=np.int32),
        "finish_reason": np.array([[answer.finish_reason.encode()]], dtype=object),
    }


TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
NOTHING_YET = Answer((), (), 0, (), 0.0, "", Step((), None))
"""A sign of life: postprocessing answers the client nothing, but sees whether it is still there."""
