# SPDX-License-Identifier: Apache-2.0
"""Takes chunks from the engine's thread and sends them from its own.

The engine must not wait for Triton, and a client that has gone must not keep its slot. Whether it has gone
shows in two ways. A direct caller's ``is_cancelled`` says so. Behind an ensemble it never does (see
postprocessing), so a request that has a key shows signs of life instead: a streamed chunk is one, and a
request that has nothing to say sends an empty one, on which postprocessing may answer with ``stop``.

A response costs Triton's processes half a millisecond, whatever it holds. With many requests and short
rounds that is more than there is, and the queue behind this model would grow. So the responses of a request
keep a distance that leaves time for those of all others; what comes meanwhile goes into the next one.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import generation
import numpy as np

ROUND_PAUSE_S = 0.05
"""Least time between the signs of life of a request that is decoded without streaming."""
WAITING_PAUSE_S = 0.5
"""The same for a request that waits for its slot or its prompt; one such request per tick."""
TICK_S = 0.05
PUBLISH_PAUSE_S = 0.25
"""Between two publications of the counters."""
SENDING_SHARE = 0.4
"""Share of its time that the dispatcher sends at most. More threads that send gain nothing: they wait for
each other at the shared memory of the Python backend (a third less on two cores)."""


class Channel(Protocol):
    """The way back to the caller of one request: a Triton response sender, or a test's."""

    def send(self, tensors: Mapping[str, np.ndarray], *, final: bool) -> None: ...

    def fail(self, error: Exception) -> None:
        """End the request with ``error``."""

    def leave(self) -> None:
        """End the request of a caller that has left."""

    def gone(self) -> bool:
        """Whether the caller has left."""


class Meter(Protocol):
    """Counters of the model; see meter.py."""

    def opened(self, tokens: int) -> None: ...

    def played(self, *, asked: int, drafted: int, accepted: int, tokens: int, seconds: float) -> None: ...

    def finished(self, outcome: str) -> None: ...

    def flush(self) -> None:
        """Publish what has been counted since the last time."""


class Delivery:
    """One request on its way. The engine's thread adds chunks, the dispatcher's does everything else."""

    def __init__(self, job: generation.Job, channel: Channel) -> None:
        self.job = job
        self.channel = channel
        self.transcript = generation.Transcript(job)
        self.chunks: deque[Any] = deque()
        self.ticket: Any = None
        self.counted = generation.NO_COUNTERS
        self.ended = False
        self.last_sign = time.monotonic()
        self.free_at = 0.0
        """When the next response may follow the last one."""

    def cancel(self) -> None:
        """Have the engine forget the request; one whose ticket is still to come is cancelled then."""
        if self.ticket is not None:
            self.ticket.cancel()


class Dispatcher:
    """Sends what all requests have to say, in one thread."""

    def __init__(self, log_error: Callable[[str], None], meter: Meter) -> None:
        self._log_error = log_error
        self._meter = meter
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._active: dict[Delivery, None] = {}
        self._held: dict[Delivery, None] = {}
        """Requests with something to say that wait for their turn, the first to be free first."""
        self._cost_s = 0.0
        """What a response takes to send, on average."""
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    def accepted(self, delivery: Delivery, ticket: Any) -> None:
        """The engine has the request. Its first chunk may have come before this call."""
        self._events.put(lambda: self._accept(delivery, ticket))

    def chunk(self, delivery: Delivery, chunk: Any) -> None:
        """Called on the engine's thread; returns at once."""
        delivery.chunks.append(chunk)
        self._events.put(lambda: self._deliver(delivery))

    def error(self, delivery: Delivery, error: Exception) -> None:
        """Called on the engine's thread; returns at once."""
        self._events.put(lambda: self._end(delivery, error))

    def refused(self) -> None:
        """A request was not accepted; only counts it."""
        self._events.put(lambda: self._meter.finished("refused"))

    def stop(self, key: int) -> None:
        """Cancel the request with this key; there may be none any more."""
        self._events.put(lambda: self._stop(key))

    def close(self) -> None:
        """Send what is left and end the thread."""
        self._events.put(None)
        self._thread.join()

    def _run(self) -> None:
        tick = publish = time.monotonic()
        while True:
            due = min(tick, publish) if self._active else publish
            if self._held:
                due = min(due, next(iter(self._held)).free_at)
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=max(0.0, due - time.monotonic()))
                if event is None:
                    for delivery in self._held:
                        delivery.free_at = 0.0
                    self._handle(self._deliver_held)
                    self._handle(self._meter.flush)
                    return
                self._handle(event)
            self._handle(self._deliver_held)
            if time.monotonic() >= tick:
                self._handle(self._sign_of_the_longest_silent)
                tick = time.monotonic() + TICK_S
            if time.monotonic() >= publish:
                self._handle(self._meter.flush)
                publish = time.monotonic() + PUBLISH_PAUSE_S

    def _handle(self, event: Callable[[], None]) -> None:
        try:
            event()
        except Exception as error:  # the thread serves all requests
            self._log_error(f"delivery failed: {type(error).__name__}: {error}")

    def _accept(self, delivery: Delivery, ticket: Any) -> None:
        delivery.ticket = ticket
        if not delivery.ended:
            self._active[delivery] = None
        else:
            ticket.cancel()

    def _deliver(self, delivery: Delivery) -> None:
        if delivery.ended or not delivery.chunks:
            return
        self._active[delivery] = None
        going_on = delivery.job.streaming and delivery.chunks[-1].finish_reason is None
        if going_on and time.monotonic() < delivery.free_at:
            self._held.setdefault(delivery)
            return
        # All that is there goes into one response: when sending is slower than decoding, it catches up.
        while delivery.chunks:
            chunk = delivery.chunks.popleft()
            delivery.transcript.add(chunk)
            self._count(delivery, chunk)
        answer = delivery.transcript.answer()
        if answer is None:
            if time.monotonic() - delivery.last_sign >= ROUND_PAUSE_S:
                self._sign(delivery)
            return
        delivery.last_sign = time.monotonic()
        final = bool(answer.finish_reason)
        if final:
            self._forget(delivery)
            self._meter.finished(answer.finish_reason)
        elif self._gone(delivery):
            self._leave(delivery)
            return
        start = time.monotonic()
        self._send(delivery, answer, final=final)
        self._space(delivery, time.monotonic() - start)

    def _space(self, delivery: Delivery, seconds: float) -> None:
        """Let the next response of ``delivery`` wait for its share of the time, as one took ``seconds``."""
        self._cost_s += 0.1 * (seconds - self._cost_s)
        delivery.free_at = delivery.last_sign + len(self._active) * self._cost_s / SENDING_SHARE

    def _deliver_held(self) -> None:
        now = time.monotonic()
        while self._held and (delivery := next(iter(self._held))).free_at <= now:
            del self._held[delivery]
            self._deliver(delivery)

    def _count(self, delivery: Delivery, chunk: Any) -> None:
        before, now = delivery.counted, chunk.counters
        delivery.counted = now
        if now.rounds == before.rounds:
            self._meter.opened(len(chunk.token_ids))
            return
        drafted = now.drafted - before.drafted
        self._meter.played(
            asked=drafted,
            drafted=drafted,
            accepted=now.accepted - before.accepted,
            tokens=len(chunk.token_ids),
            seconds=(now.last_token_ns - before.last_token_ns) / 1e9,
        )

    def _send(self, delivery: Delivery, answer: generation.Answer, *, final: bool) -> None:
        try:
            delivery.channel.send(generation.tensors(answer, delivery.job.key), final=final)
        except Exception as error:  # one request's trouble must not end the others
            self._log_error(f"sending failed: {type(error).__name__}: {error}")
            self._forget(delivery)
            if not final:  # else it is counted already
                self._meter.finished("error")
            delivery.cancel()

    def _sign_of_the_longest_silent(self) -> None:
        if not self._active:
            return
        delivery = min(self._active, key=lambda delivery: delivery.last_sign)
        if time.monotonic() - delivery.last_sign >= WAITING_PAUSE_S:
            self._sign(delivery)

    def _sign(self, delivery: Delivery) -> None:
        delivery.last_sign = time.monotonic()
        if self._gone(delivery):
            self._leave(delivery)
        elif delivery.job.key is not None:
            self._send(delivery, generation.NOTHING_YET, final=False)

    def _gone(self, delivery: Delivery) -> bool:
        return delivery.job.key is None and delivery.channel.gone()

    def _stop(self, key: int) -> None:
        for delivery in [delivery for delivery in self._active if delivery.job.key == key]:
            self._leave(delivery)

    def _end(self, delivery: Delivery, error: Exception) -> None:
        """The request has failed, and ends in the engine too."""
        if delivery.ended:
            return
        self._forget(delivery)
        delivery.cancel()
        self._meter.finished("error")
        delivery.channel.fail(error)

    def _leave(self, delivery: Delivery) -> None:
        """Nobody waits for the request any more: the engine need not either."""
        if delivery.ended:
            return
        self._forget(delivery)
        delivery.cancel()
        self._meter.finished("cancelled")
        delivery.channel.leave()

    def _forget(self, delivery: Delivery) -> None:
        delivery.ended = True
        self._active.pop(delivery, None)
        self._held.pop(delivery, None)
