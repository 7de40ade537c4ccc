# SPDX-License-Identifier: Apache-2.0
"""What goes into the engine and what comes out: settings, requests, chunks and counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from specbuild.errors import EngineError

FinishReason = Literal["stop", "length"]

_REMEDY = "Correct the request; the other requests are not affected."


class QueueFullError(EngineError):
    """Too many requests are waiting; the same request may be sent again later."""


_LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of one engine, fixed when it is loaded."""

    draft_length: int
    """Most draft tokens per round, and the default of a request."""
    adaptive: bool
    """Shorten, stop and resume drafting by the measured acceptance and step times."""
    max_batch_size: int
    """Requests decoded together; each owns one slot of the caches."""
    max_input_len: int
    max_seq_len: int
    """Prompt and output together."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None takes the cores this process may use."""
    prefill_chunk: int = 256
    """Prompt tokens computed between two rounds of the running requests."""
    max_queue_size: int = 256
    """Requests that may wait for a slot."""
    target_quantization: str | None = None
    """int8_wo: weights rounded to 8 bits when they are loaded, on a GPU. None: as they are."""
    draft_quantization: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_input_len", "max_seq_len", "prefill_chunk", "max_queue_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(
            0 <= self.draft_length < self.max_seq_len,
            "draft_length",
            self.draft_length,
            "at least 0 and below max_seq_len",
        )
        for name in ("target_quantization", "draft_quantization"):
            _require(getattr(self, name) in (None, "int8_wo"), name, getattr(self, name), "int8_wo or None")
        _require(
            self.max_input_len < self.max_seq_len, "max_input_len", self.max_input_len, "below max_seq_len"
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; the defaults are greedy.

    Counts for the penalties cover prompt and output, and the penalties follow the temperature, as in
    TensorRT-LLM (cpp/tensorrt_llm/kernels/penaltyKernels.cu). Greedy requests count as temperature 1.
    """

    temperature: float = 0.0
    """0 takes the most probable token; so does what is so little that logits divided by it overflow."""
    top_k: int = 0
    """0 keeps all tokens; 1 is greedy."""
    top_p: float = 1.0
    """Smallest set of most probable tokens whose sum reaches this."""
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    """The same seed gives the same tokens, whatever else runs, where the arithmetic does (docs/gpu.md)."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that never appear in the output."""

    def __post_init__(self) -> None:
        _require(_finite(self.temperature, low=0), "temperature", self.temperature, "a finite number from 0")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0")
        _require(_finite(self.top_p, low=0) and 0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        _require(
            _finite(self.repetition_penalty, low=0) and self.repetition_penalty > 0,
            "repetition_penalty",
            self.repetition_penalty,
            "a finite number above 0",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            _require(_finite(getattr(self, name)), name, getattr(self, name), "a finite number")
        _require(self.seed is None or 0 <= self.seed < 2**64, "seed", self.seed, "in [0, 2^64)")
        _require(all(self.bad_words), "bad_words", self.bad_words, "sequences of at least one token")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature < _LEAST_TEMPERATURE or self.top_k == 1

    @property
    def penalised(self) -> bool:
        """Whether the tokens so far change the distribution."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to continue it. Checked against an engine's limits by ``check``."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    """Tokens that end the request; the one produced is part of the output."""
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    """Token sequences that end the request; the one produced is part of the output."""
    min_tokens: int = 0
    """End tokens and stop sequences do not occur before that many output tokens."""
    draft_length: int | None = None
    """Draft tokens per round; None is the engine's default and 0 decodes plainly."""
    log_probs: bool = False

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(self.min_tokens >= 0, "min_tokens", self.min_tokens, "at least 0")
        _require(
            all(self.stop_sequences), "stop_sequences", self.stop_sequences, "sequences of at least one token"
        )

    def check(self, settings: Settings, vocab_size: int) -> None:
        """Return if an engine with these limits can serve the request, else raise EngineError."""
        length = len(self.prompt)
        if length == 0:
            raise EngineError("the prompt is empty", remedy=_REMEDY)
        if length > settings.max_input_len:
            raise EngineError(
                f"the prompt has {length} tokens, more than max_input_len ({settings.max_input_len})",
                remedy="Shorten the prompt, or build with a larger max_input_len.",
            )
        if length + self.max_tokens > settings.max_seq_len:
            raise EngineError(
                f"{length} prompt tokens and max_tokens {self.max_tokens} exceed max_seq_len "
                f"({settings.max_seq_len})",
                remedy=f"Ask for at most {settings.max_seq_len - length} tokens, or shorten the prompt.",
            )
        if not 0 <= (self.draft_length or 0) <= settings.draft_length:
            raise EngineError(
                f"draft_length {self.draft_length} is not in 0..{settings.draft_length}, "
                "what the engine was loaded for",
                remedy="Ask for fewer draft tokens, or load the engine with a larger draft_length.",
            )
        self._check_tokens("prompt", self.prompt, vocab_size)
        for word in self.sampling.bad_words:
            self._check_tokens("bad_words", word, vocab_size)

    @staticmethod
    def _check_tokens(name: str, tokens: Sequence[int], vocab_size: int) -> None:
        if min(tokens) < 0 or max(tokens) >= vocab_size:
            raise EngineError(
                f"{name} has a token outside the vocabulary of {vocab_size} tokens", remedy=_REMEDY
            )


@dataclass(frozen=True, slots=True)
class Counters:
    """Counts of one request so far.

    A round is one pass of the target after the prefill, with or without drafted tokens. Every round
    yields its accepted tokens and one more, and the prefill yields one, so

        output_tokens = 1 + rounds + accepted - cut

    where cut is 1 for a request that ended at a draft token, whose round had no further token, and
    0 otherwise. Draft tokens after such an end count as never drafted.
    """

    input_tokens: int
    output_tokens: int
    rounds: int
    drafted: int
    accepted: int
    accepted_by_position: tuple[int, ...]
    drafted_by_position: tuple[int, ...]
    arrival_ns: int
    """time.monotonic_ns, as are the next three; 0 is not yet."""
    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one round, and what is known of the request after it."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    """Log of each token's probability under the unmodified target; empty unless asked for."""
    finish_reason: FinishReason | None
    """None until the last chunk."""
    counters: Counters


@dataclass(frozen=True, slots=True)
class Status:
    """What the engine is doing, and what it has done since it was loaded."""

    active: int
    """Requests that own a slot."""
    waiting: int
    max_batch_size: int
    finished: int
    cancelled: int
    failed: int
    output_tokens: int
    rounds: int
    """Rounds summed over requests; a pass of the target for eight requests adds eight."""
    drafted: int
    accepted: int
    draft_length: int
    """Draft tokens of the latest round."""
    acceptance: float
    """Estimate of the probability that one draft token is accepted."""
    target_step_ms: float
    """Pass of the target over one token; this and the next two are moving averages."""
    verification_ms: float
    """Pass of the target over one token and draft_length drafted ones."""
    draft_step_ms: float


def _finite(value: float, *, low: float = -math.inf) -> bool:
    return math.isfinite(value) and value >= low


def _require(valid: bool, name: str, value: object, expected: str) -> None:
    if not valid:
        raise EngineError(f"{name} is {value!r}, but must be {expected}", remedy=_REMEDY)
