# SPDX-License-Identifier: Apache-2.0
"""What a request asks for, read from its tensors and checked. Messages use the front model's names.

Greedy or sampled is decided as TensorRT-LLM's C++ runtime does (cpp/tensorrt_llm: DefaultDecodingParams and
regularizeTopKTopP): without top_k and top_p a request is greedy, whatever its temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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
FORWARDED = (
    "pad_id",
    "stop_words_list",
    "bad_words_list",
    "embedding_bias",
    "len_penalty",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "temperature",
    "runtime_top_k",
    "runtime_top_p",
)
"""Tensors that every call to the target gets as the caller sent them."""
MAX_STOP_TOKENS = 1 << 16
"""Of all stop sequences together; each round looks for all of them."""


class AskedError(ValueError):
    """The request cannot be served; the message is for its sender."""


@dataclass(frozen=True)
class Limits:
    """What the deployment allows."""

    draft_length: int
    """Draft tokens per round; also a request's default."""
    sequence: int
    """Tokens of prompt and output; 0 is unknown."""
    exclude_input: bool
    """Whether a request that does not say gets its output without the prompt."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    prompt: tuple[int, ...]
    max_tokens: int
    """Already cut to what fits into the longest sequence."""
    min_tokens: int
    end_id: int | None
    stop_sequences: tuple[tuple[int, ...], ...]
    draft_length: int
    streaming: bool
    exclude_input: bool
    log_probs: bool
    greedy: bool
    temperature: float
    seed: int | None
    key: int | None
    """Under which ``stop`` finds the request; None when nobody watches for the client's leaving."""
    forwarded: Mapping[str, np.ndarray]
    """See FORWARDED."""


def read(tensors: Mapping[str, np.ndarray], limits: Limits) -> Asked:
    """The request in ``tensors``. Raises AskedError."""
    fields = Fields(tensors)
    for name, (neutral, feature) in UNSUPPORTED.items():
        if fields.scalar(name, neutral) != neutral:
            raise AskedError(
                f"{name}: {feature} is not available with speculation; leave it out or send "
                f"{str(neutral).lower()}, or call ensemble_baseline"
            )
    prompt = fields.ids("input_ids")
    min_tokens, end_id = fields.scalar("min_tokens", 0), fields.scalar("end_id", -1)
    if min_tokens < 0:
        raise AskedError(f"min_tokens: {min_tokens}, it cannot be negative")
    return Asked(
        prompt=prompt,
        max_tokens=_max_tokens(fields, len(prompt), limits.sequence),
        min_tokens=min_tokens,
        end_id=None if end_id == -1 else end_id,
        stop_sequences=fields.word_list("stop_words_list"),
        draft_length=_draft_length(fields, limits.draft_length),
        streaming=fields.scalar("streaming", False),
        exclude_input=fields.scalar("exclude_input_in_output", limits.exclude_input),
        log_probs=fields.scalar("return_log_probs", False),
        greedy=_greedy(fields),
        temperature=float(fields.scalar("temperature", 1.0)),
        seed=fields.scalar("seed"),
        key=fields.scalar("request_key"),
        # Copies: the request's memory is Triton's again once it has been handed over.
        forwarded={
            name: tensors[name].copy() for name in FORWARDED if name in tensors and tensors[name].size
        },
    )


class Fields:
    """Tensors as checked scalars and lists."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._tensors = tensors

    def scalar(self, name: str, default: Any = None) -> Any:
        """The single value of ``name``, or ``default`` when the request lacks it."""
        if name not in self._tensors:
            return default
        tensor = self._tensors[name]
        if tensor.size != 1:
            raise AskedError(f"{_front(name)}: {tensor.size} values, one is expected")
        return tensor.item()

    def ids(self, name: str) -> tuple[int, ...]:
        if name not in self._tensors or not self._tensors[name].size:
            raise AskedError(f"{_front(name)}: missing")
        return tuple(self._tensors[name].reshape(-1).tolist())

    def word_list(self, name: str) -> tuple[tuple[int, ...], ...]:
        """The sequences in NVIDIA's layout [1, 2, n]: ids, and where each sequence ends (padded with -1)."""
        tensor = self._tensors.get(name)
        if tensor is None or not tensor.size:
            return ()
        if tensor.shape[:-1] != (1, 2) or tensor.size > MAX_STOP_TOKENS:
            raise AskedError(f"{name}: the shape must be [1, 2, n], not {list(tensor.shape)}")
        ids, ends = tensor[0].tolist()
        ends = [end for end in ends if end != -1]
        starts = [0, *ends][:-1]
        if any(not start < end <= len(ids) for start, end in zip(starts, ends, strict=True)):
            raise AskedError(f"{name}: the offsets must grow and stay within the ids")
        return tuple(tuple(ids[start:end]) for start, end in zip(starts, ends, strict=True))


def _max_tokens(fields: Fields, prompt: int, sequence: int) -> int:
    wanted: int = fields.scalar("request_output_len", 0)
    if wanted < 1:
        raise AskedError(f"max_tokens: {wanted}, at least 1 is needed")
    if not sequence:
        return wanted
    if prompt >= sequence:
        raise AskedError(
            f"text_input: {prompt} tokens; the engines take {sequence} tokens of prompt and output together"
        )
    return min(wanted, sequence - prompt)


def _draft_length(fields: Fields, limit: int) -> int:
    wanted: int = fields.scalar("num_draft_tokens", limit)
    if not 0 <= wanted <= limit:
        raise AskedError(f"num_draft_tokens: {wanted}, this deployment takes 0 to {limit}")
    return wanted


def _greedy(fields: Fields) -> bool:
    top_k, top_p = fields.scalar("runtime_top_k", 0), fields.scalar("runtime_top_p", 0.0)
    return bool(top_k == 1 or (top_k <= 0 and top_p <= 0) or fields.scalar("temperature", 1.0) == 0)


def _front(name: str) -> str:
    return FRONT_NAMES.get(name, name)
