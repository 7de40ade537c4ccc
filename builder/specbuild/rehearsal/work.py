# SPDX-License-Identifier: Apache-2.0
"""One request at work: what the model has to compute for it next, and what its logits mean.

Draft tokens are judged as TensorRT-LLM 1.2 does (cpp/tensorrt_llm/layers/externalDraftTokensLayer.cpp and
kernels/speculativeDecoding/externalDraftTokensKernels.cu). Without draft logits a token is sampled at each
position; if it is the draft token, that stands, otherwise *another* token is sampled from the same
distribution, which may be the draft token after all. So with sampling this test does not keep the target's
distribution; the rehearsal repeats it, since a loop that relies on it would be wrong on the GPU. With draft
logits it is rejection sampling, which does. After its draft has been judged, a request is over.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specbuild.rehearsal.ask import Ask
from specbuild.rehearsal.slots import common
from specbuild.torch_runtime.constraints import Constraints
from specbuild.torch_runtime.sampling import Shape, distributions, draw


@dataclass
class Times:
    """time.monotonic_ns."""

    arrival: int = field(default_factory=time.monotonic_ns)
    first_scheduled: int = 0
    first_token: int = 0
    last_token: int = 0


class Work:
    """A request in ``slot``, which holds the first ``known`` tokens of its text."""

    def __init__(self, ask: Ask, slot: int, known: int, vocab_size: int, times: Times) -> None:
        self.ask = ask
        self.slot = slot
        self.known = known
        self.reused = known
        self.times = times
        self.text = list(ask.text)
        self.log_probs: list[float] = []
        self.logits: list[np.ndarray[Any, Any]] = []
        self.finished = False
        self.accepted = 0
        self.sent = 0
        self._random = np.random.default_rng(ask.request.sampling.seed)
        needed = Constraints.needed(ask.request)
        self._constraints = Constraints(ask.request, vocab_size, torch.device("cpu")) if needed else None
        self._bias = None if ask.bias is None else torch.from_numpy(ask.bias)
        times.first_scheduled = times.first_scheduled or time.monotonic_ns()

    @property
    def produced(self) -> int:
        return len(self.text) - len(self.ask.text)

    @property
    def output(self) -> list[int]:
        return self.text[len(self.ask.text) :]

    @property
    def held(self) -> list[int]:
        """The tokens whose keys and values are in the slot."""
        return self.text[: self.known]

    def next(self, most: int) -> list[int]:
        """The next tokens to compute: ``most`` of the text, or its rest with the draft tokens."""
        rest = self.text[self.known :]
        return rest[:most] if len(rest) > most else [*rest, *self._to_judge]

    def wanted(self, count: int) -> int:
        """How many of the last ones of the next ``count`` tokens need logits."""
        return max(0, count - (len(self.text) - self.known) + 1)

    def advance(self, count: int, logits: Tensor, largest: Sequence[int]) -> None:
        """Take logits [wanted(count), vocabulary] of the next ``count`` tokens, and the largest of each."""
        if not len(logits):
            self.known += count
            return
        before, drafted = len(self.text), self._to_judge
        if self._plain_greedy:
            self._follow(largest, drafted)
        else:
            self._sample(self._probabilities(logits, drafted), drafted)
        self.finished |= bool(drafted)
        new = self.text[before:]
        self.accepted += common(drafted, new)
        self.known = before + common(drafted, new)
        self._note(new, logits)

    @property
    def _to_judge(self) -> tuple[int, ...]:
        return self.ask.drafted if not self.produced else ()

    @property
    def _plain_greedy(self) -> bool:
        """Whether the next token is simply the one with the largest logit, which takes no distribution."""
        changed = self._constraints is not None or self._bias is not None
        return self.ask.request.sampling.greedy and not changed and self.ask.draft_logits is None

    def _follow(self, choices: Sequence[int], drafted: Sequence[int]) -> None:
        """Append ``choices`` up to the first that is not the draft token in its place, and that one."""
        for choice, token in itertools.zip_longest(choices, drafted):
            self._append(choice)
            if self.finished or choice != token:
                return

    def _sample(self, probabilities: Tensor, drafted: Sequence[int]) -> None:
        for position, token in enumerate(drafted):
            p = probabilities[position]
            replacement = self._replacement(p, position, token)
            if replacement is not None:
                self._append(replacement)
                return
            self._append(token)
            if self.finished:
                return
        self._append(self._draw(probabilities[len(drafted)]))

    def _replacement(self, p: Tensor, position: int, token: int) -> int | None:
        """The token instead of a draft token; None when that stands."""
        if self.ask.draft_logits is None:
            return None if self._draw(p) == token else self._draw(p)
        q = torch.softmax(torch.from_numpy(self.ask.draft_logits[position][: len(p)]), dim=-1)
        threshold = self._random.random() if self.ask.threshold is None else self.ask.threshold
        if p[token] >= threshold * q[token]:
            return None
        rest = (p - q).clamp_(min=0.0)
        return self._draw(rest if rest.sum() > 0 else p)

    def _probabilities(self, logits: Tensor, drafted: Sequence[int]) -> Tensor:
        sampling = self.ask.request.sampling
        rows = len(logits)
        scaled = logits.float()
        if self._bias is not None:
            scaled = scaled + self._bias
        if not sampling.greedy:
            scaled = scaled / sampling.temperature
        if self._constraints is not None:
            scaled = self._constraints.apply(scaled, torch.tensor(drafted, dtype=torch.long), 0)
        shape = Shape(
            temperature=torch.ones(rows),
            greedy=torch.full((rows,), sampling.greedy),
            top_k=torch.full((rows,), sampling.top_k) if sampling.top_k else None,
            top_p=torch.full((rows,), sampling.top_p) if sampling.top_p < 1 else None,
        )
        return distributions(scaled, shape)

    def _draw(self, weights: Tensor) -> int:
        return int(draw(weights[None], torch.tensor([self._random.random()]))[0])

    def _append(self, token: int) -> None:
        """Make ``token`` part of the text, unless it ends it: an end token is not returned."""
        if token == self.ask.end_id:
            self.finished = True
            return
        self.text.append(token)
        stopped = any(tuple(self.text[-len(word) :]) == word for word in self.ask.stop_words)
        self.finished = stopped or self.produced >= self.ask.length

    def _note(self, new: Sequence[int], logits: Tensor) -> None:
        self.times.last_token = time.monotonic_ns()
        self.times.first_token = self.times.first_token or self.times.last_token
        if self._constraints is not None:
            self._constraints.append(new)
        if self.ask.log_probs:
            rows = torch.log_softmax(logits[: len(new)].float(), dim=-1)
            self.log_probs += rows[torch.arange(len(new)), torch.tensor(new, dtype=torch.long)].tolist()
        if self.ask.generation_logits:
            self.logits += list(logits[: len(new)].float().numpy())
