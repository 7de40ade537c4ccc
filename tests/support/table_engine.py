# SPDX-License-Identifier: Apache-2.0
"""An engine without a model, for tests of the loop: next-token logits come from a table.

It keeps the rules of TensorRT-LLM 1.2 that the loop depends on, resampling after a mismatch included
(externalDraftTokensLayer.cpp), and notes what it was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]


class TableEngine:
    """``logits`` [vocabulary, vocabulary]: row t holds the logits after token t."""

    def __init__(
        self,
        logits: np.ndarray,
        failure: type[Exception],
        *,
        max_draft_len: int = 0,
        returns_end: bool = False,
        before: Callable[[], Any] | None = None,
    ) -> None:
        self.logits = logits.astype(np.float64)
        self.max_draft_len = max_draft_len
        self.returns_end = returns_end
        self.before = before
        self.failure = failure
        self.asked: list[dict[str, np.ndarray]] = []
        self.stopped: list[str] = []

    async def stop(self, request: str) -> None:
        self.stopped.append(request)

    async def generate(self, request: str, tensors: Tensors, outputs: Sequence[str]) -> Tensors:
        self.asked.append(dict(tensors))
        await asyncio.sleep(0)
        if self.before is not None:
            waiting = self.before()
            if waiting is not None:
                await waiting
        return {name: value for name, value in self.answer(tensors).items() if name in outputs}

    def answer(self, tensors: Tensors) -> Tensors:
        drafted = tensors["draft_input_ids"][0].tolist() if "draft_input_ids" in tensors else []
        if len(drafted) > self.max_draft_len:
            raise self.failure(f"Draft tokens length ({len(drafted)}) exceeds {self.max_draft_len}")
        work = _Work(self.logits, tensors)
        if drafted:
            work.verify(drafted, _rows(tensors))
        else:
            while not work.done:
                work.sample()
        ids = work.output if work.ended is None or not self.returns_end else [*work.output, work.ended]
        return {
            "output_ids": np.array([[ids]], dtype=np.int32).reshape(1, 1, -1),
            "sequence_length": np.array([[len(ids)]], dtype=np.int32),
            "generation_logits": np.array([[work.raw]], dtype=np.float32),
            "output_log_probs": np.array([[work.log_probs]], dtype=np.float32),
        }


class _Work:
    def __init__(self, table: np.ndarray, tensors: Tensors) -> None:
        self.table = table
        self.text = tensors["input_ids"][0].tolist()
        self.output: list[int] = []
        self.raw: list[np.ndarray] = []
        self.log_probs: list[float] = []
        self.ended: int | None = None
        self.stopped = False
        self.length = int(tensors["request_output_len"].item())
        self.end_id = _scalar(tensors, "end_id", -1)
        self.min_tokens = _scalar(tensors, "min_tokens", 0)
        self.temperature = _scalar(tensors, "temperature", 1.0)
        self.top_k = _scalar(tensors, "runtime_top_k", 0)
        self.top_p = _scalar(tensors, "runtime_top_p", 0.0)
        self.random = np.random.default_rng(_scalar(tensors, "seed", 0))
        self.stop_words = _words(tensors)

    @property
    def done(self) -> bool:
        return self.ended is not None or self.stopped or len(self.output) >= self.length

    def verify(self, drafted: Sequence[int], rows: Sequence[np.ndarray | None]) -> None:
        """One pass, after which the request is over."""
        for token, logits in zip(drafted, rows, strict=False):
            if not self.judge(token, logits) or self.done:
                return
        self.sample()

    def judge(self, token: int, logits: np.ndarray | None) -> bool:
        p = self.distribution()
        if logits is None:
            if self.random.choice(len(p), p=p) == token:
                self.append(token)
                return True
            self.append(int(self.random.choice(len(p), p=p)))
            return False
        q = _softmax(logits.astype(np.float64))
        if p[token] >= self.random.random() * q[token]:
            self.append(token)
            return True
        rest = np.maximum(p - q, 0)
        self.append(int(self.random.choice(len(p), p=rest / rest.sum())))
        return False

    def sample(self) -> None:
        p = self.distribution()
        self.append(int(self.random.choice(len(p), p=p)))

    def distribution(self) -> np.ndarray:
        logits = self.table[self.text[-1]]
        self.raw.append(logits)
        scaled = logits / (self.temperature or 1e-6)
        if len(self.output) < self.min_tokens and self.end_id >= 0:
            scaled = scaled.copy()
            scaled[self.end_id] = -1e30
        if self.top_k == 1 or (not self.top_k and self.top_p <= 0):
            return np.eye(len(scaled))[int(scaled.argmax())]
        order = np.argsort(-scaled, kind="stable")
        kept = order[: self.top_k] if self.top_k else order
        p = np.zeros(len(scaled))
        p[kept] = _softmax(scaled[kept])
        if 0 < self.top_p < 1:
            before = np.cumsum(p[order]) - p[order]
            p[order[before >= self.top_p]] = 0
        return p / p.sum()

    def append(self, token: int) -> None:
        if token == self.end_id:
            self.ended = token
            return
        self.log_probs.append(float(np.log(_softmax(self.table[self.text[-1]])[token])))
        self.text.append(token)
        self.output.append(token)
        self.stopped = any(tuple(self.text[-len(word) :]) == word for word in self.stop_words)


def _scalar(tensors: Tensors, name: str, default: Any) -> Any:
    return tensors[name].item() if name in tensors else default


def _rows(tensors: Tensors) -> list[np.ndarray | None]:
    if "draft_logits" in tensors:
        return list(tensors["draft_logits"][0])
    return [None] * 64


def _words(tensors: Tensors) -> list[tuple[int, ...]]:
    if "stop_words_list" not in tensors:
        return []
    ids, ends = tensors["stop_words_list"][0].tolist()
    ends = [end for end in ends if end != -1]
    return [tuple(ids[start:end]) for start, end in zip([0, *ends][:-1], ends, strict=True)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    result: np.ndarray = exponentials / exponentials.sum()
    return result
