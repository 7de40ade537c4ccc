# SPDX-License-Identifier: Apache-2.0
"""The engine: one thread that owns the models, and a thread-safe way to give it requests.

Each iteration admits waiting requests to free slots, brings one chunk's worth of prompts into the caches,
and plays one round of all running requests. Requests join and leave between iterations.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch

from specbuild.errors import EngineError
from specbuild.torch_runtime import device, out_of_memory
from specbuild.torch_runtime.decoder import Decoder
from specbuild.torch_runtime.request import Chunk, Counters, QueueFullError, Request, Settings, Status
from specbuild.torch_runtime.rounds import Pair
from specbuild.torch_runtime.sequence import Sequence

log = logging.getLogger(__name__)

OnChunk = Callable[[Chunk], None]
OnError = Callable[[Exception], None]


class Ticket:
    """A submitted request. Its callbacks run on the engine's thread."""

    def __init__(self, request: Request, on_chunk: OnChunk, on_error: OnError, engine: Engine) -> None:
        self.request = request
        self.on_chunk = on_chunk
        self.on_error = on_error
        self.arrival_ns = time.monotonic_ns()
        self.cancelled = False
        self.counted: Counters | None = None
        self._engine = engine

    def cancel(self) -> None:
        """Free the request's slot within one round; its callbacks are not called after that round."""
        self._engine._cancel(self)


class Engine:
    """Speculative decoding of many requests at once. Made by ``Engine.load``; a context manager."""

    def __init__(
        self, load: Callable[[], Pair], settings: Settings, where: torch.device, on_lost: Callable[[], None]
    ) -> None:
        self._on_lost = on_lost
        self._lost = False
        self._settings = settings
        self._device = where
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._active: dict[Ticket, Sequence] = {}
        self._closed: EngineError | None = None
        self._finished = self._cancelled = self._failed = 0
        self._output_tokens = self._rounds = self._drafted = self._accepted = 0
        loaded: Future[Pair] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(load, loaded), name="specbuild-engine", daemon=True
        )
        self._thread.start()
        self._pair = loaded.result()

    @classmethod
    def load(
        cls,
        target: Path,
        draft: Path | None,
        settings: Settings,
        *,
        on_lost: Callable[[], None] = lambda: None,
    ) -> Engine:
        """An engine with both models in memory, ready for requests. Raises EngineError, also without memory.

        ``on_lost`` is called when the GPU has failed for good, after all requests have got their error.
        Only a new process can use it again, so a server does well to end.
        """
        where = device.resolve(settings.device)
        if draft is None:
            settings = replace(settings, draft_length=0)

        def load() -> Pair:
            with out_of_memory.explained(target, draft, settings, where):
                pair = _load_pair(target, draft, settings, where)
                pair.measure(settings.max_batch_size, settings.draft_length)
                return pair

        return cls(load, settings, where, on_lost)

    def submit(self, request: Request, *, on_chunk: OnChunk, on_error: OnError) -> Ticket:
        """A ticket for ``request``, which is now waiting or running.

        ``on_chunk`` gets every chunk, ``on_error`` at most one error and nothing after it; both must
        return quickly. Raises EngineError for a bad request, QueueFullError when too many wait.
        """
        request.check(self._settings, self._pair.vocab_size)
        ticket = Ticket(request, on_chunk, on_error, self)
        with self._changed:
            if self._closed is not None:
                raise self._closed
            room = self._settings.max_batch_size + self._settings.max_queue_size
            if len(self._active) + len(self._waiting) >= room:
                raise QueueFullError(
                    f"{len(self._waiting)} requests are waiting already",
                    remedy="Send the request again later, or raise serving.max_queue_size.",
                )
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def generate(self, request: Request) -> Iterator[Chunk]:
        """The chunks of ``request``, as they come. Closing the iterator cancels the request.

        The request is submitted when the first chunk is asked for, and raises then what submit raises.
        """
        chunks: queue.SimpleQueue[Chunk | Exception] = queue.SimpleQueue()
        ticket = self.submit(request, on_chunk=chunks.put, on_error=chunks.put)
        try:
            while True:
                item = chunks.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            ticket.cancel()

    def status(self) -> Status:
        """What the engine does now and has done so far."""
        policy = self._pair.policy
        length = self._pair.latest_draft_length
        with self._changed:
            active, waiting = len(self._active), len(self._waiting)
        return Status(
            active=active,
            waiting=waiting,
            max_batch_size=self._settings.max_batch_size,
            finished=self._finished,
            cancelled=self._cancelled,
            failed=self._failed,
            output_tokens=self._output_tokens,
            rounds=self._rounds,
            drafted=self._drafted,
            accepted=self._accepted,
            draft_length=length,
            acceptance=policy.alpha,
            target_step_ms=policy.target.estimate(1) * 1e3,
            verification_ms=policy.target.estimate(length + 1) * 1e3,
            draft_step_ms=policy.draft.estimate(1) * 1e3,
        )

    def close(self) -> None:
        """Stop the thread; outstanding requests get an EngineError. May be called more than once."""
        self._stop(EngineError("the engine is closed", remedy="Load an engine again."))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._cancelled += 1
            self._changed.notify_all()

    def _stop(self, error: EngineError) -> None:
        with self._changed:
            if self._closed is None:
                self._closed = error
            self._changed.notify_all()

    def _run(self, load: Callable[[], Pair], loaded: Future[Pair]) -> None:
        # The models are loaded here and not by the caller, because OpenMP keeps a pool of workers for every
        # thread that computes: two pools outnumber the cores, and it then puts waiting workers to sleep at
        # once (libgomp's throttled spinning), which makes a step half as long again.
        try:
            device.prepare_thread(self._device, self._settings.threads)
            pair = load()
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(pair)
        with torch.inference_mode():
            while self._admit():
                self._iterate()
        assert self._closed is not None
        with self._changed:
            outstanding = [*self._active, *self._waiting]
            self._active.clear()
            self._waiting.clear()
        self._fail(outstanding, self._closed)
        if self._lost:
            self._on_lost()

    def _admit(self) -> bool:
        """Release cancelled requests and seat waiting ones; blocks while there is nothing to do.

        False once the engine is closed.
        """
        with self._changed:
            for ticket in [ticket for ticket in self._active if ticket.cancelled]:
                del self._active[ticket]
                self._cancelled += 1
            self._changed.wait_for(lambda: self._active or self._waiting or self._closed)
            if self._closed is not None:
                return False
            taken = {sequence.slot for sequence in self._active.values()}
            free = (slot for slot in range(self._settings.max_batch_size) if slot not in taken)
            for slot in free:
                if not self._waiting:
                    break
                ticket = self._waiting.popleft()
                self._active[ticket] = Sequence(
                    ticket.request, slot, ticket.arrival_ns, self._settings.draft_length
                )
        return True

    def _iterate(self) -> None:
        due = self._due_for_prefill()
        for together in [due] if self._pair.packs_prompts and due else [[ticket] for ticket in due]:
            self._guard(together, self._prefill)
        running = [ticket for ticket, sequence in self._active.items() if sequence.prefilled]
        if running:
            self._guard(running, self._round)

    def _due_for_prefill(self) -> list[Ticket]:
        """Whose prompts get a chunk now: the first to come, for as long as one chunk's worth of tokens lasts.

        Where a prompt is cut depends on itself alone, so that its arithmetic does not vary with the load.
        """
        due: list[Ticket] = []
        left = self._settings.prefill_chunk
        for ticket, sequence in self._active.items():
            if sequence.prefilled:
                continue
            size = min(self._settings.prefill_chunk, len(ticket.request.prompt) - sequence.target_known)
            if due and size > left:
                break
            due.append(ticket)
            left -= size
        return due

    def _guard(self, tickets: list[Ticket], work: Callable[[list[Ticket]], None]) -> None:
        """Do ``work``; if it raises, ``tickets`` fail and the engine goes on, if the device still works."""
        try:
            work(tickets)
        except Exception as error:
            log.exception("%d requests failed", len(tickets))
            self._release(tickets)
            self._fail(tickets, _described(error))
            self._recover()

    def _prefill(self, tickets: list[Ticket]) -> None:
        sequences = [self._active[ticket] for ticket in tickets]
        for sequence in sequences:
            if sequence.target_known == 0:
                sequence.constrain(self._pair.vocab_size, self._device)
        self._deliver_all(tickets, self._pair.prefill(sequences))
        for ticket, sequence in zip(tickets, sequences, strict=True):
            if sequence.failure is not None:
                self._release([ticket])
                self._fail([ticket], sequence.failure)

    def _round(self, tickets: list[Ticket]) -> None:
        self._deliver_all(tickets, self._pair.play([self._active[ticket] for ticket in tickets]))

    def _deliver_all(self, tickets: list[Ticket], chunks: list[tuple[Sequence, Chunk]]) -> None:
        owners = {id(self._active[ticket]): ticket for ticket in tickets}
        for sequence, chunk in chunks:
            # A GPU may still have been at work for a request that was cancelled.
            if owner := owners.get(id(sequence)):
                self._deliver(owner, chunk)

    def _deliver(self, ticket: Ticket, chunk: Chunk) -> None:
        self._count(ticket, chunk.counters)
        if chunk.finish_reason is not None:
            self._finished += 1
            self._release([ticket])
        if ticket.cancelled:
            return
        try:
            ticket.on_chunk(chunk)
        except Exception:
            log.exception("a callback failed; its request is cancelled")
            ticket.cancelled = True

    def _count(self, ticket: Ticket, now: Counters) -> None:
        before = ticket.counted
        ticket.counted = now
        self._output_tokens += now.output_tokens - (before.output_tokens if before else 0)
        self._rounds += now.rounds - (before.rounds if before else 0)
        self._drafted += now.drafted - (before.drafted if before else 0)
        self._accepted += now.accepted - (before.accepted if before else 0)

    def _release(self, tickets: list[Ticket]) -> None:
        with self._changed:
            for ticket in tickets:
                self._active.pop(ticket, None)

    def _fail(self, tickets: list[Ticket], error: EngineError) -> None:
        self._failed += len(tickets)
        for ticket in tickets:
            if ticket.cancelled:
                continue
            try:
                ticket.on_error(error)
            except Exception:
                log.exception("an error callback failed")

    def _recover(self) -> None:
        """Stop for good when the device no longer computes: after a kernel's fault every later call fails."""
        try:
            device.probe(self._device)
        except RuntimeError as error:
            self._lost = True
            self._stop(
                EngineError(f"the GPU does not answer: {_first_line(error)}", remedy="Restart the process.")
            )


def _load_pair(target: Path, draft: Path | None, settings: Settings, where: torch.device) -> Pair:
    if where.type == "cuda":
        # Only there, because its kernels need Triton's language, which comes with PyTorch for GPUs.
        from specbuild.torch_runtime.cuda.pair import CudaPair

        return CudaPair.load(target, draft, settings, where)

    if settings.target_quantization or settings.draft_quantization:
        raise EngineError(
            "weights in 8 bits need a GPU, and this engine runs on the CPU",
            remedy="Set target.quantization and draft.quantization to null, or torch.device to cuda.",
        )

    def load_one(folder: Path) -> Decoder:
        return Decoder.load(
            folder, slots=settings.max_batch_size, max_seq_len=settings.max_seq_len, where=where
        )

    return Pair(
        load_one(target),
        None if draft is None else load_one(draft),
        prefill_chunk=settings.prefill_chunk,
        adaptive=settings.adaptive,
    )


def _described(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, torch.cuda.OutOfMemoryError):
        remedy = "Lower limits.max_batch_size or limits.max_seq_len, or torch.prefill_chunk."
        return EngineError(f"the GPU is out of memory: {_first_line(error)}", remedy=remedy)
    return EngineError(
        f"the model failed with {type(error).__name__}: {_first_line(error)}",
        remedy="Send the request again; the log has the details.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
