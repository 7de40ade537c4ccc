# SPDX-License-Identifier: Apache-2.0
"""Tensors of a Triton request to a request of the torch runtime, and its chunks back to tensors.

Names, shapes and defaults are those of NVIDIA's ``tensorrt_llm`` model (TensorRT-LLM 1.2,
``triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt``); ours are ``num_draft_tokens``,
``num_rounds``, ``finish_reason`` and what postprocessing needs. Messages use the front model's names, since
the people who read them send those.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specbuild.torch_runtime import Chunk, Counters, Request, Sampling

FRONT_NAMES = {
    "request_output_len": "max_tokens",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    "input_ids": "text_input",
}
UNSUPPORTED = {
    "beam_width": (1, "beam search"),
    "num_return_sequences": (1, "several sequences per request"),
    "return_context_logits": (False, "context logits"),
    "return_generation_logits": (False, "generation logits"),
}


class InputError(ValueError):
    """The request cannot be served; the message is for its sender."""


@dataclass(frozen=True)
class Job:
    """One request: what the runtime generates and how its chunks are to be delivered."""

    request: Request
    streaming: bool
    exclude_input: bool
    key: int | None
    """Under which ``stop`` finds the request; None when nobody watches for the client's leaving."""


@dataclass(frozen=True)
class Answer:
    """What one response holds: the tokens since the last one and the figures of the whole request."""

    tokens: Sequence[int]
    context: Sequence[int]
    """The output tokens before ``tokens``."""
    counters: Counters
    log_probs: Sequence[float]
    cumulative_log_prob: float
    finish_reason: str
    """Empty until the last response."""


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
        if name not in self._tensors:
            raise InputError(f"{front_name(name)}: missing")
        ids: list[int] = self._tensors[name].reshape(-1).tolist()
        return ids

    def word_list(self, name: str) -> tuple[tuple[int, ...], ...]:
        """The sequences in NVIDIA's layout [1, 2, n]: ids, and where each sequence ends (padded with -1)."""
        tensor = self._tensors.get(name)
        if tensor is None or not tensor.size:
            return ()
        if tensor.shape[:-1] != (1, 2):
            raise InputError(f"{name}: the shape must be [1, 2, n], not {list(tensor.shape)}")
        ids, ends = tensor[0].tolist()
        ends = [end for end in ends if end != -1]
        starts = [0, *ends[:-1]]
        if any(not start < end <= len(ids) for start, end in zip(starts, ends, strict=True)):
            raise InputError(f"{name}: the offsets must grow and stay within the ids")
        return tuple(tuple(ids[start:end]) for start, end in zip(starts, ends, strict=True))


def front_name(name: str) -> str:
    return FRONT_NAMES.get(name, name)


def job(tensors: Mapping[str, np.ndarray], *, exclude_input: bool, draft_length: int) -> Job:
    """The job that ``tensors`` ask for.

    ``exclude_input`` is the deployment's default, ``draft_length`` its limit for num_draft_tokens. Raises
    InputError, or EngineError from the runtime's own checks.
    """
    inputs = Inputs(tensors)
    for name, (neutral, feature) in UNSUPPORTED.items():
        value = inputs.scalar(name, neutral)
        if value != neutral:
            raise InputError(
                f"{name}: {feature} is not available with the torch runtime; "
                f"leave it out or send {str(neutral).lower()}"
            )
    drafts = inputs.scalar("num_draft_tokens")
    if drafts is not None and not 0 <= drafts <= draft_length:
        raise InputError(f"num_draft_tokens: {drafts}, this deployment takes 0 to {draft_length}")
    request = Request(
        prompt=inputs.ids("input_ids"),
        max_tokens=inputs.scalar("request_output_len", 0),
        sampling=sampling(inputs),
        end_ids=frozenset({inputs.scalar("end_id", -1)} - {-1}),
        stop_sequences=inputs.word_list("stop_words_list"),
        min_tokens=inputs.scalar("min_tokens", 0),
        draft_length=drafts,
        log_probs=inputs.scalar("return_log_probs", False),
    )
    return Job(
        request,
        streaming=inputs.scalar("streaming", False),
        exclude_input=inputs.scalar("exclude_input_in_output", exclude_input),
        key=inputs.scalar("request_key"),
    )


def sampling(inputs: Inputs) -> Sampling:
    """How to choose tokens, by TensorRT-LLM's rule: greedy unless a sampling field asks otherwise.

    Greedy are: none of temperature, top_k and top_p; temperature 0; top_k 1; top_p 0
    (TensorRT-LLM 1.2, ``SamplingParams.params_imply_greedy_decoding``).
    """
    temperature = inputs.scalar("temperature")
    top_k = inputs.scalar("runtime_top_k")
    top_p = inputs.scalar("runtime_top_p")
    greedy = (temperature is None and top_k is None and top_p is None) or top_p == 0
    return Sampling(
        temperature=0.0 if greedy else _real(temperature, 1.0),
        top_k=top_k or 0,
        top_p=_real(top_p, 1.0) or 1.0,
        repetition_penalty=_real(inputs.scalar("repetition_penalty"), 1.0),
        presence_penalty=_real(inputs.scalar("presence_penalty"), 0.0),
        frequency_penalty=_real(inputs.scalar("frequency_penalty"), 0.0),
        seed=inputs.scalar("seed"),
        bad_words=inputs.word_list("bad_words_list"),
    )


def _real(value: float | None, default: float) -> float:
    return default if value is None else float(value)


class Transcript:
    """Gathers a request's chunks into answers."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tokens = array("i")
        self._log_probs: list[float] = []
        self._log_prob = 0.0
        self._answered = 0
        self._latest: Chunk | None = None

    def add(self, chunk: Chunk) -> None:
        self._tokens.extend(chunk.token_ids)
        self._log_probs += chunk.log_probs
        self._log_prob += sum(chunk.log_probs)
        self._latest = chunk

    def answer(self) -> Answer | None:
        """What has been added since the last answer; None while a request that does not stream goes on."""
        assert self._latest is not None
        finish_reason = self._latest.finish_reason
        if not (self._job.streaming or finish_reason):
            return None
        start, self._answered = self._answered, len(self._tokens)
        tokens = self._tokens[start:]
        if not (self._job.streaming or self._job.exclude_input):
            # Only then: what streams never holds the prompt (TensorRT-LLM, LlmRequest::createResult).
            tokens = array("i", self._job.request.prompt) + tokens
        return Answer(
            tokens=tokens,
            context=self._tokens[:start],
            counters=self._latest.counters,
            log_probs=self._log_probs[start:],
            cumulative_log_prob=self._log_prob,
            finish_reason=finish_reason or "",
        )


NO_COUNTERS = Counters(
    input_tokens=0,
    output_tokens=0,
    rounds=0,
    drafted=0,
    accepted=0,
    accepted_by_position=(),
    drafted_by_position=(),
    arrival_ns=0,
    first_scheduled_ns=0,
    first_token_ns=0,
    last_token_ns=0,
)
NOTHING_YET = Answer((), (), NO_COUNTERS, (), 0.0, "")
"""A sign of life: postprocessing answers the client nothing, but sees whether it is still there."""


def tensors(answer: Answer, key: int | None) -> dict[str, np.ndarray]:
    """The response's tensors, each with a leading batch dimension of 1."""
    count = answer.counters
    return {
        "output_ids": np.array([[answer.tokens]], dtype=np.int32),
        "sequence_length": np.array([[len(answer.tokens)]], dtype=np.int32),
        "context_ids": np.array([answer.context], dtype=np.int32),
        "is_final": np.array([[bool(answer.finish_reason)]]),
        "request_key": np.array([[key or 0]], dtype=np.uint64),
        "cum_log_probs": np.array([[answer.cumulative_log_prob]], dtype=np.float32),
        "output_log_probs": np.array([[answer.log_probs or [0.0]]], dtype=np.float32),
        "arrival_time_ns": np.array([[count.arrival_ns]], dtype=np.int64),
        "first_scheduled_time_ns": np.array([[count.first_scheduled_ns]], dtype=np.int64),
        "first_token_time_ns": np.array([[count.first_token_ns]], dtype=np.int64),
        "last_token_time_ns": np.array([[count.last_token_ns]], dtype=np.int64),
        "acceptance_rate": np.array([[count.accepted / max(1, count.drafted)]], dtype=np.float32),
        "total_accepted_draft_tokens": np.array([[count.accepted]], dtype=np.int32),
        "total_draft_tokens": np.array([[count.drafted]], dtype=np.int32),
        "num_input_tokens": np.array([[count.input_tokens]], dtype=np.int32),
        "num_output_tokens": np.array([[count.output_tokens]], dtype=np.int32),
        "num_rounds": np.array([[count.rounds]], dtype=np.int32),
        "finish_reason": np.array([[answer.finish_reason.encode()]], dtype=object),
    }
