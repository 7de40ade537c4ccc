# SPDX-License-Identifier: Apache-2.0
"""The loop of the ``speculative`` model around table engines, without Triton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from support.table_engine import TableEngine
from support.triton import model_module

asked = model_module("speculative", "asked")
calls = model_module("speculative", "calls")
conversation = model_module("speculative", "conversation")
draft_length = model_module("speculative", "draft_length")

VOCABULARY = 12
END = 11


def tables(seed: int, *, sharpness: float = 3.0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a target, and of a draft that differs from it by ``noise``."""
    random = np.random.default_rng(seed)
    target = random.normal(scale=sharpness, size=(VOCABULARY, VOCABULARY))
    return target, target + random.normal(scale=noise, size=target.shape)


@dataclass
class Meter:
    rounds: list[dict[str, Any]] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)

    def opened(self, tokens: int) -> None: ...

    def played(self, **figures: Any) -> None:
        self.rounds.append(figures)

    def spent_outside(self, seconds: float) -> None: ...

    def fallback(self, reason: str) -> None:
        self.fallbacks.append(reason)


@dataclass
class Caller:
    """Keeps what it gets."""

    responses: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    finals: list[bool] = field(default_factory=list)
    failure: BaseException | None = None
    left: bool = False

    def send(self, tensors: Mapping[str, np.ndarray], *, final: bool) -> None:
        self.responses.append(tensors)
        self.finals.append(final)

    def fail(self, error: BaseException) -> None:
        self.failure = error

    def leave(self) -> None:
        self.finals.append(True)

    def gone(self) -> bool:
        return self.left

    @property
    def tokens(self) -> list[int]:
        return [token for one in self.responses for token in one["output_ids"].reshape(-1).tolist()]

    def last(self, name: str) -> Any:
        return self.responses[-1][name].item()


@dataclass
class Rig:
    """Two engines and everything between them."""

    target: TableEngine
    draft: TableEngine
    by_logits: bool = False
    adaptive: bool = False
    vocab_size: int = VOCABULARY
    draft_timeout_s: float = 5.0
    max_draft_len: int = 5
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self.policy = draft_length.Policy(adaptive=self.adaptive)
        self.health = conversation.Health()
        self.limits = asked.Limits(draft_length=self.max_draft_len, sequence=512, exclude_input=True)

    @property
    def house(self) -> Any:
        how = calls.Verification(by_logits=self.by_logits, fast_logits=False, vocab_size=self.vocab_size)
        return conversation.House(
            self.target, self.draft, how, self.policy, self.health, self.meter, self.draft_timeout_s
        )

    async def generate(self, **fields: Any) -> Caller:
        caller = Caller()
        request = asked.read(request_tensors(**fields), self.limits)
        await conversation.Conversation(request, self.house, caller).run()
        return caller


def rig(target: np.ndarray, draft: np.ndarray, **more: Any) -> Rig:
    failure = conversation.EngineError
    return Rig(TableEngine(target, failure, max_draft_len=5), TableEngine(draft, failure), **more)


TYPES: Mapping[str, Any] = {
    "temperature": np.float32,
    "runtime_top_p": np.float32,
    "seed": np.uint64,
    "request_key": np.uint64,
    "streaming": np.bool_,
    "exclude_input_in_output": np.bool_,
    "return_log_probs": np.bool_,
}


def request_tensors(
    *, prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 12, **fields: Any
) -> dict[str, Any]:
    """A request's tensors; word lists are given as sequences of tokens."""
    tensors = {
        "input_ids": np.array([prompt], dtype=np.int32),
        "input_lengths": np.array([[len(prompt)]], dtype=np.int32),
        "request_output_len": np.array([[max_tokens]], dtype=np.int32),
    }
    for name in ("stop_words_list", "bad_words_list"):
        if words := fields.pop(name, ()):
            tensors[name] = word_list(words)
    return tensors | {
        name: np.array([[value]], dtype=TYPES.get(name, np.int32)) for name, value in fields.items()
    }


def word_list(words: Any) -> np.ndarray:
    ids = [token for word in words for token in word]
    rows = np.full((1, 2, len(ids)), -1, dtype=np.int32)
    rows[0, 0] = ids
    rows[0, 1, : len(words)] = np.cumsum([len(word) for word in words])
    return rows


def baseline(table: np.ndarray, **fields: Any) -> list[int]:
    """What the target alone generates."""
    fields = {name: value for name, value in fields.items() if name != "num_draft_tokens"}
    answer = TableEngine(table, RuntimeError).answer(request_tensors(**fields))
    tokens: list[int] = answer["output_ids"].reshape(-1).tolist()
    return tokens
