# SPDX-License-Identifier: Apache-2.0
"""Target and draft at work on a GPU. A round is launched before the host has seen the one before it.

The state that rounds hand on (lengths, last tokens, what remains) is on the device, so the host reads a
round's outcome while the next one runs, and its time costs nothing. It pays with one round that a request may
play after its end, whose outcome nobody reads. Requests whose distributions depend on their past (penalties,
bad words) or that want log probabilities are played by ``Pair``, step by step.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from specbuild.torch_runtime import device
from specbuild.torch_runtime.chooser import Chooser
from specbuild.torch_runtime.cuda.decoder import CudaDecoder
from specbuild.torch_runtime.cuda.graphs import Kind, RoundGraphs
from specbuild.torch_runtime.cuda.state import SETTINGS, DeviceState, pinned, write_orders
from specbuild.torch_runtime.draft_length import RoundCosts
from specbuild.torch_runtime.request import Chunk, Settings
from specbuild.torch_runtime.rounds import LanguageModel, Pair, not_finite
from specbuild.torch_runtime.sequence import Sequence
from specbuild.torch_runtime.span import Span

log = logging.getLogger(__name__)

_IN_FLIGHT = 2
"""Rounds that may be on their way at once: the one that runs and the one that follows it."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """A round that has been launched."""

    sequences: Items[Sequence]
    limits: Items[int]
    rows: int
    drafted: int
    outcome: Tensor
    watch: device.Stopwatch


class CudaPair(Pair):
    """As ``Pair``, with captured rounds. Made by ``CudaPair.load``."""

    packs_prompts = True

    def __init__(self, target: CudaDecoder, draft: CudaDecoder | None, settings: Settings) -> None:
        super().__init__(target, draft, prefill_chunk=settings.prefill_chunk, adaptive=settings.adaptive)
        self._state = DeviceState(settings.max_batch_size, settings.draft_length, target.device)
        self._graphs = RoundGraphs(target, draft, self._state)
        self._buckets = batch_buckets(settings.max_batch_size)
        self._lengths = draft_lengths(settings.draft_length)
        self._costs = RoundCosts()
        self._flights: deque[_Flight] = deque()
        # One more than fly at once: the host writes to one while the device reads the others.
        shape = (settings.max_batch_size, SETTINGS + 2 * settings.draft_length + 1)
        self._orders = [pinned(shape, torch.double, target.device) for _ in range(_IN_FLIGHT + 1)]
        shape = (settings.max_batch_size, settings.draft_length + 2)
        self._outcomes = [pinned(shape, torch.long, target.device) for _ in range(_IN_FLIGHT + 1)]
        self._launched = 0
        self._middle = max(1, (settings.max_seq_len - settings.draft_length) // 2)

    @classmethod
    def load(cls, target: Path, draft: Path | None, settings: Settings, where: torch.device) -> CudaPair:
        """The pair in GPU memory. Raises EngineError, and PyTorch's OutOfMemoryError."""
        _keep_kernels(target)

        def load_one(folder: Path, quantization: str | None) -> CudaDecoder:
            start = time.monotonic()
            decoder = CudaDecoder.load(
                folder,
                slots=settings.max_batch_size,
                max_seq_len=settings.max_seq_len,
                draft_length=settings.draft_length,
                where=where,
                eight_bits=quantization is not None,
            )
            kind = "fused layers" if decoder.fused else "transformers' own layers"
            log.info("loaded %s in %.1f s: %s", folder.name, time.monotonic() - start, kind)
            return decoder

        return cls(
            load_one(target, settings.target_quantization),
            None if draft is None else load_one(draft, settings.draft_quantization),
            settings,
        )

    @torch.inference_mode()
    def measure(self, batch_size: int, draft_length: int) -> None:
        """Capture the rounds of greedy requests, and time each of them."""
        start = time.monotonic()
        combinations = [(rows, drafted) for rows in self._buckets for drafted in self._lengths]
        for index, (rows, drafted) in enumerate(combinations):
            self._measure_one(rows, drafted)
            if index % 10 == 9 or index == len(combinations) - 1:
                log.info("captured %d of %d rounds", index + 1, len(combinations))
        log.info("captured in %.1f s", time.monotonic() - start)

    def prefill(self, sequences: Items[Sequence]) -> list[tuple[Sequence, Chunk]]:
        """One pass over the next chunk of each of ``sequences``; the first tokens of those that are complete.

        One whose logits are no numbers gets its ``failure`` instead. The draft reads the same chunk after the
        target, while the first tokens are on their way already.
        """
        spans = [self._chunk(s, s.target_known) for s in sequences]
        logits = self._read(self._target, sequences, spans)
        for sequence, span in zip(sequences, spans, strict=True):
            sequence.target_known = span.end
        done = [row for row, s in enumerate(sequences) if s.target_known == len(s.request.prompt)]
        finished = [sequences[row] for row in done]
        arrived = self._choose_first(finished, logits[done]) if finished else None
        self._prefill_draft([s for s in sequences if s.drafts])
        if arrived is None:
            return []
        event, first = arrived
        event.laps()
        chunks = []
        finite = torch.isfinite(logits[done]).all(-1).tolist()
        for sequence, token, row, fine in zip(finished, first.tolist(), done, finite, strict=True):
            if not fine:
                sequence.failure = not_finite()
                continue
            log_probs = self._log_probs(sequence, logits[row : row + 1], [token])
            chunks.append((sequence, sequence.extend([token], 0, log_probs)))
        if chunks:
            self._state.seat([sequence for sequence, _ in chunks])
        return chunks

    def play(self, sequences: Items[Sequence]) -> list[tuple[Sequence, Chunk]]:
        """Launch the next round of ``sequences``; the chunks of the one before it."""
        try:
            slow = [s for s in sequences if s.constraints is not None or s.request.log_probs]
            chunks = super().play(slow) if slow else []
            fast = [s for s in sequences if s.constraints is None and not s.request.log_probs]
            if fast:
                chunks += self._prepare_and_launch(fast)
            return chunks + self._land(keep=_IN_FLIGHT - 1 if fast else 0)
        except Exception:
            self._flights.clear()
            raise

    def _prepare_and_launch(self, sequences: Items[Sequence]) -> list[tuple[Sequence, Chunk]]:
        chunks: list[tuple[Sequence, Chunk]] = []
        limits = self._choose_lengths(sequences)
        drafting = [s for s, limit in zip(sequences, limits, strict=True) if limit]
        if not all(self._draft_keeps_up(s) for s in drafting):
            chunks = self._land(keep=0)
            kept = [
                (s, min(limit, s.draft_limit))
                for s, limit in zip(sequences, limits, strict=True)
                if s.finish_reason is None
            ]
            if not kept:
                return chunks
            sequences, limits = [s for s, _ in kept], [limit for _, limit in kept]
            self._catch_up_fully([s for s, limit in kept if limit])
        self._launch(sequences, limits)
        return chunks

    def _choose_lengths(self, sequences: Items[Sequence]) -> list[int]:
        lengths = [sequence.draft_limit for sequence in sequences]
        if self._adaptive:
            rows = self._bucket(len(sequences))
            free = [row for row, sequence in enumerate(sequences) if not sequence.reproducible]
            best = self.policy.choose(
                [sequences[row].acceptance for row in free],
                [lengths[row] for row in free],
                lambda length: self._costs.seconds[rows, self._length(length)],
            )
            for row in free:
                lengths[row] = min(best, lengths[row])
        self.latest_draft_length = max(lengths)
        return lengths

    def _launch(self, sequences: Items[Sequence], limits: Items[int]) -> None:
        rows, drafted = self._bucket(len(sequences)), self._length(max(limits))
        captured = self._graphs.get(rows, drafted, _kind(sequences))
        place = self._launched % len(self._orders)
        self._launched += 1
        orders, outcome = self._orders[place][:rows], self._outcomes[place][:rows]
        write_orders(orders, sequences, limits, self._state.filler)
        watch = device.stopwatch(self._device)
        self._state.orders[:rows].copy_(orders, non_blocking=True)
        watch.lap()
        captured.burst()
        watch.lap()
        captured.verification()
        outcome.copy_(self._state.outcome[:rows], non_blocking=True)
        watch.lap()
        self._flights.append(_Flight(sequences, limits, rows, drafted, outcome, watch))

    def _land(self, keep: int) -> list[tuple[Sequence, Chunk]]:
        """The chunks of all rounds in flight but the last ``keep``; waits for their end."""
        chunks = []
        while len(self._flights) > keep:
            flight = self._flights.popleft()
            burst, verification = flight.watch.laps()
            self._time_round(flight, burst, verification)
            rows = zip(flight.sequences, flight.limits, flight.outcome.tolist(), strict=False)
            for sequence, limit, (accepted, token, *drafted) in rows:
                if sequence.finish_reason is None:
                    length = min(limit, sequence.draft_limit)
                    chunks.append((sequence, self._advance(sequence, length, [*drafted[:accepted], token])))
        return chunks

    def _time_round(self, flight: _Flight, burst: float, verification: float) -> None:
        rows, drafted = flight.rows, flight.drafted
        self._costs.observe(rows, drafted, burst + verification)
        if drafted:
            self.policy.draft.observe(rows, burst / drafted)
        self.policy.target.observe(rows * (drafted + 1), verification)

    def _draft_keeps_up(self, sequence: Sequence) -> bool:
        """Whether the draft knows, or will after the rounds in flight, all but the last two tokens."""
        if sequence.draft_limit == 0:
            return True
        flown = [
            limit
            for flight in self._flights
            for one, limit in zip(flight.sequences, flight.limits, strict=True)
            if one is sequence
        ]
        return sequence.draft_known >= len(sequence.tokens) - 2 and all(flown)

    def _catch_up_fully(self, sequences: Items[Sequence]) -> None:
        """Let the draft read what was produced while it rested. Nothing is in flight."""
        assert self._draft is not None
        behind = [s for s in sequences if s.drafts and s.draft_known < len(s.tokens) - 2]
        if behind:
            self._read(
                self._draft,
                behind,
                [Span(s.slot, s.draft_known, len(s.tokens) - 1 - s.draft_known) for s in behind],
            )
        for sequence in behind:
            sequence.draft_known = len(sequence.tokens) - 1

    def _prefill_draft(self, sequences: Items[Sequence]) -> None:
        if self._draft is None or not sequences:
            return
        spans = [Span(s.slot, s.draft_known, s.target_known - s.draft_known) for s in sequences]
        self._read(self._draft, sequences, spans)
        for sequence, span in zip(sequences, spans, strict=True):
            sequence.draft_known = span.end

    def _chunk(self, sequence: Sequence, start: int) -> Span:
        return Span(sequence.slot, start, min(self._prefill_chunk, len(sequence.request.prompt) - start))

    def _read(self, decoder: LanguageModel, sequences: Items[Sequence], spans: Items[Span]) -> Tensor:
        """Logits [spans, vocab_size] after the tokens of each span of its sequence, in one pass."""
        tokens = [
            token
            for s, span in zip(sequences, spans, strict=True)
            for token in s.tokens[span.start : span.end]
        ]
        ends = torch.tensor([span.length for span in spans]).cumsum(0) - 1
        where = self._device
        return decoder.forward(torch.tensor(tokens).to(where), spans, ends.to(where))

    def _choose_first(self, sequences: Items[Sequence], logits: Tensor) -> tuple[device.Stopwatch, Tensor]:
        """The first output tokens, on their way to the host, and what tells when they have arrived."""
        nothing = torch.zeros(len(sequences), 0, dtype=torch.long, device=self._device)
        _, following = Chooser(sequences, [0] * len(sequences), self._device).judge(logits, nothing)
        first = pinned((len(sequences),), torch.long, self._device)
        first.copy_(following, non_blocking=True)
        arrived = device.stopwatch(self._device)
        arrived.lap()
        return arrived, first

    def _measure_one(self, rows: int, drafted: int) -> None:
        """Time the round with real slots at half of max_seq_len, the second time it runs."""
        captured = self._graphs.get(rows, drafted, "greedy")
        state = self._state
        state.orders[:rows, 0] = torch.arange(rows, dtype=torch.double, device=self._device)
        state.orders[:rows, 1] = drafted
        for _ in range(2):
            state.length[:-1] = self._middle
            state.remaining[:-1] = 2 * state.draft_length + 2
            watch = device.stopwatch(self._device)
            watch.lap()
            captured.burst()
            watch.lap()
            captured.verification()
            watch.lap()
            burst, verification = watch.laps()
        self._costs.seconds[rows, drafted] = burst + verification
        self.policy.target.seconds[rows * (drafted + 1)] = verification
        if drafted:
            self.policy.draft.seconds[rows] = burst / drafted

    def _bucket(self, requests: int) -> int:
        return next(rows for rows in self._buckets if rows >= requests)

    def _length(self, drafted: int) -> int:
        return next(length for length in self._lengths if length >= drafted)


def batch_buckets(most: int) -> list[int]:
    """Numbers of rows for which rounds are captured; a batch takes the next larger one."""
    powers = [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent < most]
    return [*powers, most]


def draft_lengths(most: int) -> list[int]:
    """Draft lengths for which rounds are captured: all up to 8, then every fourth one."""
    return sorted({*range(min(most, 8) + 1), *range(12, most, 4), most})


def _kind(sequences: Items[Sequence]) -> Kind:
    settings = [s.request.sampling for s in sequences if not s.request.sampling.greedy]
    if not settings:
        return "greedy"
    return "truncated" if any(s.top_k or s.top_p < 1 for s in settings) else "sampled"


def _keep_kernels(target: Path) -> None:
    """Keep compiled kernels beside a published engine, so that its next start finds them."""
    folder = target.parent / "kernels"
    if (target / "manifest.json").is_file() and os.access(target.parent, os.W_OK):
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder))
