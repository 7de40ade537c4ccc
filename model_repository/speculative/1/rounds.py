# SPDX-License-Identifier: Apache-2.0
"""The text of one request and its rounds: how much to ask for next, and what an answer means. Pure.

What the target engine does decides the rules (TensorRT-LLM 1.2, cpp/tensorrt_llm:
externalDraftTokensKernels.cu, stopCriteriaKernels.cu):

- It returns the draft tokens that it accepts and one token more. That token differs from the draft token in
  its place. So an answer without anything but draft tokens is an end, unless it has one token more than them.
- An end token ends the text and is not returned. ``min_tokens`` holds it back.
- A stop sequence ends the text, is returned, and may begin in the prompt. ``min_tokens`` does not matter.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

STOP, LENGTH = "stop", "length"


@dataclass(frozen=True)
class Round:
    """What the engines are asked for."""

    draft: int
    """Tokens that the draft proposes; 0 is a round without it."""
    length: int
    """Tokens that the target may return when the draft proposes all of them."""


OPENING = Round(draft=0, length=1)
"""The prompt's own pass: the first token comes without waiting for the draft to read the prompt."""


@dataclass(frozen=True)
class Outcome:
    """What a round added."""

    tokens: tuple[int, ...]
    drafted: int
    accepted: int


@dataclass
class Counts:
    """Sums over the rounds of one request. As in the torch runtime, the opening is no round."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0


class Text:
    """Prompt and output of one request; ``finish`` is empty until the last round."""

    def __init__(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        min_tokens: int = 0,
        end_id: int | None = None,
        stop_sequences: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.tokens = array("i", prompt)
        self.prompt = len(prompt)
        self.finish = ""
        self.counts = Counts()
        self._max_tokens = max_tokens
        self._min_tokens = min_tokens
        self._end_id = end_id
        self._stop_sequences = stop_sequences

    @property
    def output(self) -> array[int]:
        return self.tokens[self.prompt :]

    @property
    def produced(self) -> int:
        return len(self.tokens) - self.prompt

    @property
    def remaining(self) -> int:
        return self._max_tokens - self.produced

    @property
    def held_back(self) -> int:
        """For how many more tokens the text may not end: an engine sees only its own call's."""
        return max(0, self._min_tokens - self.produced)

    def next(self, draft_length: int, burst: int) -> Round:
        """The next round with at most ``draft_length`` draft tokens; one without them asks for ``burst``."""
        draft = min(draft_length, self.remaining - 1)
        if draft > 0:
            return Round(draft, draft + 1)
        return Round(0, min(burst, self.remaining))

    def absorb(self, asked: Round, drafted: Sequence[int], answer: Sequence[int]) -> Outcome:
        """Take the target's ``answer`` to a round in which the draft proposed ``drafted``."""
        answer, ended = self._until_end(answer)
        accepted, proposed = _common(drafted, answer), len(drafted)
        if asked.draft:
            ended |= accepted == len(answer) <= proposed
        else:
            ended |= len(answer) < asked.length
        kept = self._append(answer)
        if self.finish and kept <= accepted:
            # What the draft proposed after a stop sequence was never judged.
            accepted = proposed = kept
        elif not self.finish and (ended or not self.remaining):
            self.finish = STOP if ended else LENGTH
        if asked is not OPENING:
            # A burst without draft tokens is as many passes of the target as it has tokens.
            self.counts.rounds += 1 if asked.draft else max(1, kept)
            self.counts.drafted += proposed
            self.counts.accepted += accepted
        return Outcome(tuple(answer[:kept]), proposed, accepted)

    def _until_end(self, answer: Sequence[int]) -> tuple[Sequence[int], bool]:
        """The answer without an end token, for engines that return it, and whether there was one."""
        if self._end_id is None:
            return answer, False
        for index, token in enumerate(answer):
            if token == self._end_id and index >= self.held_back:
                return answer[:index], True
        return answer, False

    def _append(self, answer: Sequence[int]) -> int:
        """Append up to a stop sequence and to the length; how many tokens were appended."""
        answer = answer[: self.remaining]
        for kept, token in enumerate(answer, start=1):
            self.tokens.append(token)
            if any(tuple(self.tokens[-len(stop) :]) == stop for stop in self._stop_sequences):
                self.finish = STOP
                return kept
        return len(answer)


def _common(drafted: Sequence[int], answer: Sequence[int]) -> int:
    """How many of the first tokens are equal."""
    pairs = enumerate(zip(drafted, answer, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(drafted), len(answer)))
