# SPDX-License-Identifier: Apache-2.0
"""The two kinds of work of an engine: a chunk of one prompt, and a round of all running requests.

A round is one draft burst and one verification. It reads back from the device once, at its end.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Protocol

import torch
from torch import Tensor

from specbuild.errors import EngineError
from specbuild.torch_runtime import device
from specbuild.torch_runtime.chooser import Chooser
from specbuild.torch_runtime.constraints import BANNED
from specbuild.torch_runtime.draft_length import DraftLengthPolicy, step_costs
from specbuild.torch_runtime.request import Chunk
from specbuild.torch_runtime.sequence import Sequence
from specbuild.torch_runtime.span import Span


class LanguageModel(Protocol):
    """What a round needs of a decoder."""

    device: torch.device
    vocab_size: int

    def forward(self, tokens: Tensor, spans: Items[Span], rows: Tensor | None = None) -> Tensor:
        """Logits [rows, vocab_size] after the tokens of ``spans``, which are packed in ``tokens`` [n]."""

    def prefill(self, tokens: Items[int], slot: int, start: int) -> Tensor:
        """Logits [1, vocab_size] after ``tokens``, which continue the ``start`` ones in ``slot``."""

    def forget(self, slot: int) -> None:
        """Make ``slot`` fit for another request after one whose numbers were not finite."""


class Pair:
    """Target and, perhaps, draft, at work on the sequences of an engine."""

    packs_prompts = False
    """Whether one pass takes chunks of several prompts; otherwise they are computed one by one."""

    def __init__(
        self, target: LanguageModel, draft: LanguageModel | None, *, prefill_chunk: int, adaptive: bool
    ) -> None:
        self._target = target
        self._draft = draft
        self._device = target.device
        self._prefill_chunk = prefill_chunk
        self._adaptive = adaptive
        self.policy = DraftLengthPolicy()
        self.vocab_size = target.vocab_size
        self.latest_draft_length = 0

    @torch.inference_mode()
    def measure(self, batch_size: int, draft_length: int) -> None:
        """Time the passes from which the choice of the draft length starts."""
        for slots, length in ((1, 0), (1, draft_length), (batch_size, draft_length)):
            self.policy.target.seconds[slots * (length + 1)] = self._time(self._target, slots, length + 1)
        if self._draft is not None:
            for slots in (1, batch_size):
                self.policy.draft.seconds[slots] = self._time(self._draft, slots, 1)

    def prefill(self, sequences: Items[Sequence]) -> list[tuple[Sequence, Chunk]]:
        """Bring the next chunk of each prompt into a cache; the first tokens of those that are complete."""
        chunks = [(sequence, self._prefill_one(sequence)) for sequence in sequences]
        return [(sequence, chunk) for sequence, chunk in chunks if chunk is not None]

    def _prefill_one(self, sequence: Sequence) -> Chunk | None:
        """The draft reads the prompt after the target, so that it does not delay the first token."""
        prompt = sequence.request.prompt
        if sequence.target_known < len(prompt):
            start = sequence.target_known
            logits = self._target.prefill(prompt[start : start + self._prefill_chunk], sequence.slot, start)
            sequence.target_known = min(len(prompt), start + self._prefill_chunk)
            return self._first_token(sequence, logits) if sequence.target_known == len(prompt) else None
        assert self._draft is not None
        start = sequence.draft_known
        self._draft.prefill(prompt[start : start + self._prefill_chunk], sequence.slot, start)
        sequence.draft_known = min(len(prompt), start + self._prefill_chunk)
        return None

    def play(self, sequences: Items[Sequence]) -> list[tuple[Sequence, Chunk]]:
        """The chunk of each of ``sequences`` after one more round."""
        lengths = self._choose_lengths(sequences)
        order = sorted(range(len(sequences)), key=lambda row: -lengths[row])
        sequences, lengths = [sequences[row] for row in order], [lengths[row] for row in order]
        watch = device.stopwatch(self._device)
        chooser = Chooser(sequences, lengths, self._device)
        watch.lap()
        drafted = self._burst(sequences, lengths, chooser)
        watch.lap()
        logits = self._verify(sequences, lengths, drafted)
        accepted, following = chooser.judge(logits, drafted)
        outcome = torch.cat([accepted[:, None], following[:, None], drafted], dim=1).tolist()
        watch.lap()
        self._observe(lengths, *watch.laps())
        return self._advance_all(sequences, lengths, outcome, logits)

    def _choose_lengths(self, sequences: Items[Sequence]) -> list[int]:
        lengths = [sequence.draft_limit for sequence in sequences]
        if self._adaptive:
            free = [row for row, sequence in enumerate(sequences) if not sequence.reproducible]
            limits = [lengths[row] for row in free]
            seconds = step_costs(limits, self.policy.draft, self.policy.target)
            best = self.policy.choose([sequences[row].acceptance for row in free], limits, seconds)
            for row in free:
                lengths[row] = min(best, lengths[row])
        self.latest_draft_length = max(lengths)
        return lengths

    def _burst(self, sequences: Items[Sequence], lengths: Items[int], chooser: Chooser) -> Tensor:
        """Draft tokens [requests, most]; unused entries are 0."""
        drafted = torch.zeros(len(sequences), max(lengths), dtype=torch.long, device=self._device)
        for step in range(max(lengths)):
            active = sequences[: sum(length > step for length in lengths)]
            logits = self._catch_up(active) if step == 0 else self._draft_step(active, drafted, step)
            drafted[: len(active), step] = chooser.propose(logits, drafted, step)
        return drafted

    def _catch_up(self, sequences: Items[Sequence]) -> Tensor:
        """The draft's logits after all tokens of ``sequences``, reading those it does not know yet.

        That is one token, or two after a round whose draft tokens were all accepted.
        """
        assert self._draft is not None
        unknown = [sequence.tokens[sequence.draft_known :] for sequence in sequences]
        spans = [Span(s.slot, s.draft_known, len(new)) for s, new in zip(sequences, unknown, strict=True)]
        tokens = torch.tensor([token for new in unknown for token in new], device=self._device)
        ends = torch.tensor([len(new) for new in unknown], device=self._device).cumsum(0) - 1
        rows = None if len(tokens) == len(sequences) else ends
        return self._fit(self._draft.forward(tokens, spans, rows))

    def _draft_step(self, sequences: Items[Sequence], drafted: Tensor, step: int) -> Tensor:
        assert self._draft is not None
        spans = [Span(sequence.slot, len(sequence.tokens) + step - 1, 1) for sequence in sequences]
        return self._fit(self._draft.forward(drafted[: len(sequences), step - 1], spans))

    def _verify(self, sequences: Items[Sequence], lengths: Items[int], drafted: Tensor) -> Tensor:
        """The target's logits after the last token and after each drafted one, packed."""
        last = torch.tensor([[sequence.tokens[-1]] for sequence in sequences], device=self._device)
        grid = torch.cat([last, drafted], dim=1)
        width = grid.shape[1]
        tokens = grid.flatten()
        if min(lengths) < max(lengths):
            used = [row * width + j for row, length in enumerate(lengths) for j in range(length + 1)]
            tokens = tokens[torch.tensor(used, device=self._device)]
        spans = [
            Span(sequence.slot, sequence.target_known, length + 1)
            for sequence, length in zip(sequences, lengths, strict=True)
        ]
        return self._target.forward(tokens, spans)

    def _advance_all(
        self, sequences: Items[Sequence], lengths: Items[int], outcome: list[list[int]], logits: Tensor
    ) -> list[tuple[Sequence, Chunk]]:
        chunks = []
        row = 0
        for sequence, length, (accepted, token, *drafted) in zip(sequences, lengths, outcome, strict=True):
            tokens = [*drafted[:accepted], token]
            log_probs = self._log_probs(sequence, logits[row : row + accepted + 1], tokens)
            row += length + 1
            chunks.append((sequence, self._advance(sequence, length, tokens, log_probs)))
        return chunks

    def _advance(
        self, sequence: Sequence, length: int, tokens: Items[int], log_probs: Items[float] = ()
    ) -> Chunk:
        """The chunk of a sequence that drafted ``length`` tokens; all but the last of ``tokens`` stand."""
        accepted = len(tokens) - 1
        known = len(sequence.tokens)
        sequence.target_known = known + accepted
        if length:
            # The burst never reads its own last token.
            sequence.draft_known = known + min(accepted, length - 1)
        self.policy.observe(sequence.acceptance, length, accepted)
        return sequence.extend(tokens, length, log_probs)

    def _time(self, decoder: LanguageModel, slots: int, tokens: int) -> float:
        """Seconds of a pass over the first ``tokens`` of ``slots`` requests, the second time it runs."""
        spans = [Span(slot, 0, tokens) for slot in range(slots)]
        zeros = torch.zeros(slots * tokens, dtype=torch.long, device=self._device)
        watch = device.stopwatch(self._device)
        for _ in range(2):
            watch.lap()
            decoder.forward(zeros, spans)
        watch.lap()
        return watch.laps()[-1]

    def _first_token(self, sequence: Sequence, logits: Tensor) -> Chunk:
        try:
            check_finite(logits)
        except EngineError:
            self._target.forget(sequence.slot)
            raise
        nothing = torch.zeros(1, 0, dtype=torch.long, device=self._device)
        _, following = Chooser([sequence], [0], self._device).judge(logits, nothing)
        tokens = [int(following)]
        return sequence.extend(tokens, 0, self._log_probs(sequence, logits, tokens))

    def _log_probs(self, sequence: Sequence, logits: Tensor, tokens: Items[int]) -> Items[float]:
        if not sequence.request.log_probs:
            return ()
        index = torch.tensor(tokens, device=self._device)[:, None]
        values: list[float] = torch.log_softmax(logits.float(), dim=-1).gather(1, index)[:, 0].tolist()
        return values

    def _fit(self, logits: Tensor) -> Tensor:
        """The draft's logits over the target's vocabulary: paddings of the two may differ."""
        missing = self.vocab_size - logits.shape[1]
        if missing == 0:
            return logits
        return torch.nn.functional.pad(logits, (0, missing), value=BANNED)

    def _observe(self, lengths: Items[int], burst: float, verification: float) -> None:
        steps = max(lengths)
        if steps:
            self.policy.draft.observe(round(sum(lengths) / steps), burst / steps)
        self.policy.target.observe(sum(lengths) + len(lengths), verification)


def check_finite(logits: Tensor) -> None:
    """Raise EngineError unless the target's ``logits`` are numbers."""
    if not bool(torch.isfinite(logits).all()):
        raise not_finite()


def not_finite() -> EngineError:
    """What a request fails with whose logits are no numbers."""
    return EngineError(
        "the target's logits are not finite",
        remedy="Check the checkpoint and its dtype; float16 overflows in models trained in bfloat16.",
    )
