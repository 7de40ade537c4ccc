# SPDX-License-Identifier: Apache-2.0
"""One engine's stand-in: requests batched in flight over one model, in a thread of its own.

Each iteration is one pass of the model: the next chunk of every prompt, one token of every text that grows,
and the draft tokens of every text that is verified, packed together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from specbuild.rehearsal import ask as asks
from specbuild.rehearsal import reply
from specbuild.rehearsal.ask import Ask, RefusedError
from specbuild.rehearsal.limits import EngineLimits
from specbuild.rehearsal.slots import Slots
from specbuild.rehearsal.work import Times, Work
from specbuild.torch_runtime import device
from specbuild.torch_runtime.decoder import Decoder
from specbuild.torch_runtime.sampling import largest
from specbuild.torch_runtime.span import Span

log = logging.getLogger(__name__)

PREFILL_CHUNK = 256
"""Prompt tokens of one request in a pass, so that the others do not wait long."""


class Caller(Protocol):
    """The way back to one caller. Its methods are called on the engine's thread."""

    def send(self, tensors: asks.Tensors, *, final: bool) -> None: ...

    def fail(self, error: Exception) -> None: ...

    def gone(self) -> bool: ...


class Entry:
    """A request with its caller."""

    def __init__(self, name: str, ask: Ask, caller: Caller) -> None:
        self.name = name
        self.ask = ask
        self.caller = caller
        self.times = Times()
        self.cancelled = False
        self.next_poll = time.monotonic()
        self.work: Work | None = None


class RehearsalEngine:
    """Answers requests as the engine that ``limits`` describe would; closes its thread on ``close``.

    A pass takes ``pass_s`` at least.
    """

    def __init__(
        self, decoder: Decoder, limits: EngineLimits, threads: int | None = None, pass_s: float = 0.0
    ) -> None:
        self.limits = limits
        self._decoder = decoder
        self._threads = threads
        self._pass_s = pass_s
        self._slots = Slots(limits.max_batch_size, reuse=limits.reuse)
        self._waiting: deque[Entry] = deque()
        self._active: list[Entry] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="rehearsal-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls, limits: EngineLimits, weights: Path, *, threads: int | None = None, pass_s: float = 0.0
    ) -> RehearsalEngine:
        """An engine with the model in ``weights`` (Hugging Face format). Raises EngineError."""
        where = torch.device("cpu")
        device.prepare_thread(where, threads)
        # The engine's own limit counts its draft tokens on top of the longest text.
        longest = limits.max_seq_len - limits.max_draft_len
        decoder = Decoder.load(weights, slots=limits.max_batch_size, max_seq_len=longest, where=where)
        return cls(decoder, limits, threads, pass_s)

    def submit(self, name: str, tensors: asks.Tensors, caller: Caller) -> None:
        """Take in the request ``name``. Raises RefusedError and EngineError."""
        entry = Entry(name, asks.read(tensors, self.limits), caller)
        with self._changed:
            limit = self.limits.max_queue_size
            if limit and len(self._waiting) >= limit:
                raise RefusedError(f"Maximum queue size of {limit} has been reached, please try again later")
            self._waiting.append(entry)
            self._changed.notify_all()

    def stop(self, name: str) -> None:
        """End the requests of that name, if there are any, with what they have."""
        with self._changed:
            for entry in [*self._waiting, *self._active]:
                entry.cancelled |= entry.name == name
            self._changed.notify_all()

    def load_factor(self) -> tuple[int, int]:
        """Requests at work and waiting."""
        with self._changed:
            return len(self._active), len(self._waiting)

    def close(self) -> None:
        """End the thread; requests at work get an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        device.prepare_thread(torch.device("cpu"), self._threads)
        with torch.inference_mode():
            while self._admit():
                self._drop_cancelled()
                self._guarded_pass()
        for entry in [*self._active, *self._waiting]:
            entry.caller.fail(RefusedError("Executor has been shut down"))

    def _admit(self) -> bool:
        """Seat waiting requests; blocks while there is nothing to do. False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._active or self._waiting)
            if self._closed:
                return False
            while self._waiting and self._slots.free:
                entry = self._waiting.popleft()
                slot, known = self._slots.take(entry.ask.text)
                entry.work = Work(entry.ask, slot, known, self._decoder.vocab_size, entry.times)
                self._active.append(entry)
        return True

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        for entry in list(self._active):
            if now >= entry.next_poll:
                entry.next_poll = now + self.limits.cancel_poll_s
                entry.cancelled |= entry.caller.gone()
            if entry.cancelled:
                self._finish(entry)

    def _guarded_pass(self) -> None:
        entries = list(self._active)
        try:
            self._pass([entry.work for entry in entries if entry.work is not None])
        except Exception as error:
            log.exception("a pass over %d requests failed", len(entries))
            for entry in entries:
                self._release(entry)
                entry.caller.fail(error)
            return
        for entry in entries:
            self._answer(entry)

    def _pass(self, works: list[Work]) -> None:
        if not works:
            return
        start_s = time.monotonic()
        batch = [(work, work.next(PREFILL_CHUNK)) for work in works]
        tokens = torch.tensor([token for _, new in batch for token in new])
        spans = [Span(work.slot, work.known, len(new)) for work, new in batch]
        logits = self._decoder.forward(tokens, spans, torch.tensor(list(_rows(batch)), dtype=torch.long))
        choices = largest(logits).tolist()
        start = 0
        for work, new in batch:
            count = work.wanted(len(new))
            work.advance(len(new), logits[start : start + count], choices[start : start + count])
            start += count
        time.sleep(max(0.0, start_s + self._pass_s - time.monotonic()))

    def _answer(self, entry: Entry) -> None:
        work = entry.work
        assert work is not None
        if work.finished:
            self._finish(entry)
        elif entry.ask.streaming and work.produced > work.sent:
            self._send(entry, final=False)

    def _finish(self, entry: Entry) -> None:
        assert entry.work is not None
        self._release(entry)
        self._send(entry, final=True)

    def _release(self, entry: Entry) -> None:
        assert entry.work is not None
        with self._changed:
            self._active.remove(entry)
            self._slots.give_back(entry.work.slot, entry.work.held)

    def _send(self, entry: Entry, *, final: bool) -> None:
        assert entry.work is not None
        try:
            entry.caller.send(reply.tensors(entry.work, self.limits.tokens_per_block), final=final)
        except Exception:
            log.exception("an answer could not be sent")
            entry.cancelled = True


def _rows(batch: list[tuple[Work, list[int]]]) -> Iterator[int]:
    """Which of the packed tokens need logits."""
    end = 0
    for work, new in batch:
        end += len(new)
        yield from range(end - work.wanted(len(new)), end)
