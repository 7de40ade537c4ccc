# SPDX-License-Identifier: Apache-2.0
"""The tensors of each call to the engines, and what their answers hold. Pure.

Every call carries the whole text; the engines' KV reuse computes its new end only. Every per-request tensor
goes along in every call, and every call of a sampled request has a seed of its own: with one seed for all,
each round would draw the same random numbers again.

Why sampled requests are always verified by logits: the engine's test without them accepts a draft token that
equals the token it has just sampled, and otherwise samples again *from the whole distribution*
(cpp/tensorrt_llm/layers/externalDraftTokensLayer.cpp, acceptDraftTokens and multinomialSampling), which makes
the draft's token more probable than the target does. With the draft's logits it does rejection sampling,
which is exact if they are what the draft token was drawn by. So:

- exact: the draft takes its most probable token. It was drawn with certainty, which is what logits say that
  are 0 for it and minus infinity otherwise.
- logits: the draft samples from its own distribution at the request's temperature, with nothing cut off or
  penalised, and its logits, divided by that temperature, are passed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from asked import Asked

Tensors = Mapping[str, np.ndarray]

OUTPUTS = ("output_ids", "sequence_length")
LOG_PROBS = "output_log_probs"
LOGITS = "generation_logits"
DRAFT_ONLY_GREEDY = frozenset({"temperature", "runtime_top_k", "runtime_top_p", "stop_words_list"})
"""What a draft that takes the most probable token does not get: it may not stop by itself either."""
IMPOSSIBLE = -1e30
"""A logit whose probability is 0: finite, as the engine's softmax expects."""


class AnswerError(ValueError):
    """An engine's answer lacks what was asked for."""


@dataclass(frozen=True)
class Verification:
    """How the deployment verifies."""

    by_logits: bool
    """Whether sampled requests are drafted for by sampling (acceptance: logits)."""
    fast_logits: bool
    """Whether the logits are a handle, which cannot be divided by a temperature."""
    vocab_size: int
    """Columns of the target's logits; 0 is unknown."""

    def drafts_for(self, asked: Asked) -> bool:
        """Whether a draft can be verified without changing the distribution of ``asked``."""
        return asked.greedy or self.by_logits or self.vocab_size > 0

    def samples_draft(self, asked: Asked) -> bool:
        return self.by_logits and not asked.greedy

    def draft_temperature(self, asked: Asked) -> float:
        return 1.0 if self.fast_logits else asked.temperature


@dataclass(frozen=True)
class Turn:
    """Where a request stands when an engine is called."""

    text: Sequence[int]
    held_back: int
    """Tokens before which the text may not end."""
    seed: int


def draft_call(asked: Asked, turn: Turn, length: int, how: Verification) -> Tensors:
    """Have the draft propose ``length`` tokens."""
    tensors = _common(turn.text, length)
    if how.samples_draft(asked):
        return tensors | {
            "runtime_top_k": _int(0),
            "runtime_top_p": _float(1.0),
            "temperature": _float(how.draft_temperature(asked)),
            "seed": _seed(turn.seed),
            "return_generation_logits": _bool(True),
        }
    tensors |= {name: value for name, value in asked.forwarded.items() if name not in DRAFT_ONLY_GREEDY}
    tensors["runtime_top_k"] = _int(1)
    if turn.held_back and asked.end_id is not None:
        # What the target must not say yet, the draft need not propose.
        tensors |= {"end_id": _int(asked.end_id), "min_tokens": _int(length)}
    return tensors


def target_call(
    asked: Asked, turn: Turn, length: int, drafted: Sequence[int] = (), logits: np.ndarray | None = None
) -> Tensors:
    """Have the target verify ``drafted`` and return ``length`` tokens at most."""
    tensors = _common(turn.text, length) | dict(asked.forwarded)
    if asked.end_id is not None:
        tensors["end_id"] = _int(asked.end_id)
        if turn.held_back:
            tensors["min_tokens"] = _int(turn.held_back)
    if not asked.greedy:
        tensors["seed"] = _seed(turn.seed)
    if asked.log_probs:
        tensors["return_log_probs"] = _bool(True)
    if len(drafted):
        tensors["draft_input_ids"] = np.array([drafted], dtype=np.int32)
        if logits is not None:
            tensors["draft_logits"] = logits[None]
    return tensors


def stop_call() -> Tensors:
    """End the engine's work for the request with the same id; the required inputs are there for form."""
    one = _int(1)
    return {"input_ids": one, "input_lengths": one, "request_output_len": one, "stop": _bool(True)}


def draft_outputs(asked: Asked, how: Verification) -> tuple[str, ...]:
    return (*OUTPUTS, LOGITS) if how.samples_draft(asked) else OUTPUTS


def target_outputs(asked: Asked) -> tuple[str, ...]:
    return (*OUTPUTS, LOG_PROBS) if asked.log_probs else OUTPUTS


def draft_logits(
    asked: Asked, drafted: Sequence[int], answer: Tensors, how: Verification
) -> np.ndarray | None:
    """The logits that ``drafted`` was drawn by [drafted, vocabulary]; None for a greedy request."""
    if asked.greedy or not len(drafted):
        return None
    if not how.by_logits:
        certain = np.full((len(drafted), how.vocab_size), IMPOSSIBLE, dtype=np.float32)
        certain[np.arange(len(drafted)), drafted] = 0.0
        return certain
    if LOGITS not in answer:
        raise AnswerError("the draft returned no logits; build its engine with --gather_generation_logits")
    logits = answer[LOGITS].reshape(-1, answer[LOGITS].shape[-1])
    if how.fast_logits:
        return logits
    return _fitted(logits[: len(drafted)] / how.draft_temperature(asked), how.vocab_size)


def tokens(answer: Tensors, limit: int) -> list[int]:
    """The tokens of an answer that excludes the input, ``limit`` at most."""
    if "output_ids" not in answer or "sequence_length" not in answer:
        raise AnswerError(f"an engine answered without {' and '.join(OUTPUTS)}")
    length = min(int(answer["sequence_length"].reshape(-1)[0]), limit)
    ids: list[int] = answer["output_ids"].reshape(-1)[:length].tolist()
    return ids


def log_probs(answer: Tensors, count: int) -> list[float]:
    """Log-probabilities of the first ``count`` tokens of an answer; 0 where the engine has none."""
    values: list[float] = answer[LOG_PROBS].reshape(-1)[:count].tolist() if LOG_PROBS in answer else []
    return values + [0.0] * (count - len(values))


def seed_of(seed: int, call: int) -> int:
    """A seed for one of a request's calls: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = (seed + (call + 1) * 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


_MASK = (1 << 64) - 1


def _fitted(logits: np.ndarray, columns: int) -> np.ndarray:
    """With the target's number of columns: a token that the draft lacks was drawn with probability 0."""
    missing = columns - logits.shape[1] if columns else 0
    if missing < 0:
        raise AnswerError(f"the draft's logits have {logits.shape[1]} columns, the target's {columns}")
    return np.pad(logits, ((0, 0), (0, missing)), constant_values=IMPOSSIBLE).astype(np.float32)


def _common(text: Sequence[int], length: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": np.array(text, dtype=np.int32)[None],
        "input_lengths": _int(len(text)),
        "request_output_len": _int(length),
        "exclude_input_in_output": _bool(True),
    }


def _int(value: int) -> np.ndarray:
    return np.array([[value]], dtype=np.int32)


def _float(value: float) -> np.ndarray:
    return np.array([[value]], dtype=np.float32)


def _bool(value: bool) -> np.ndarray:
    return np.array([[value]])


def _seed(value: int) -> np.ndarray:
    return np.array([[value]], dtype=np.uint64)
