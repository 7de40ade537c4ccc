# SPDX-License-Identifier: Apache-2.0
"""Chunks reach the client from a thread of their own, and a client that has gone frees its slot."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from specbuild.torch_runtime import Chunk
from support.triton import model_module
from support.waiting import until

generation = model_module("torch", "generation")
delivery = model_module("torch", "delivery")

COUNTERS = generation.NO_COUNTERS


class Caller:
    """Records what arrives; may leave."""

    def __init__(self) -> None:
        self.received: queue.SimpleQueue[tuple[list[int], bool]] = queue.SimpleQueue()
        self.failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        self.left = threading.Event()
        self.has_gone = False
        self.breaks = False

    def send(self, tensors: Mapping[str, np.ndarray], *, final: bool) -> None:
        if self.breaks:
            raise RuntimeError("no way back")
        self.received.put((tensors["output_ids"].reshape(-1).tolist(), final))

    def fail(self, error: Exception) -> None:
        self.failures.put(error)

    def leave(self) -> None:
        self.left.set()

    def gone(self) -> bool:
        return self.has_gone


class Meter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.tokens = 0
        self.rounds: list[dict[str, Any]] = []
        self.outcomes: list[str] = []
        self.flushed = 0

    def opened(self, tokens: int) -> None:
        self.tokens += tokens

    def played(self, **figures: Any) -> None:
        self.rounds.append(figures)

    def finished(self, outcome: str) -> None:
        self.outcomes.append(outcome)

    def flush(self) -> None:
        self.flushed += 1


class Ticket:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
def dispatcher(errors: list[str], meter: Meter) -> Iterator[Any]:
    dispatcher = delivery.Dispatcher(errors.append, meter)
    yield dispatcher
    dispatcher.close()


def opened(*, streaming: bool, key: int | None = None) -> tuple[Any, Caller, Ticket]:
    tensors = {
        "input_ids": np.array([[1]], np.int32),
        "request_output_len": np.array([[9]], np.int32),
        "streaming": np.array([[streaming]]),
    }
    if key is not None:
        tensors["request_key"] = np.array([[key]], np.uint64)
    caller = Caller()
    job = generation.job(tensors, exclude_input=True, draft_length=5)
    return delivery.Delivery(job, caller), caller, Ticket()


def chunk(*ids: int, last: bool = False) -> Chunk:
    return Chunk(ids, (), "stop" if last else None, COUNTERS)


def everything(caller: Caller) -> list[int]:
    """All tokens, in the order of arrival; the last response must be final, and no other."""
    tokens: list[int] = []
    final = False
    while not final:
        ids, final = caller.received.get(timeout=5)
        tokens += ids
    assert caller.received.empty()
    return tokens


def test_a_streams_tokens_arrive_in_order_and_the_last_response_is_final(dispatcher: Any) -> None:
    subject, caller, ticket = opened(streaming=True)
    dispatcher.accepted(subject, ticket)
    for message in (chunk(1, 2), chunk(3), chunk(4, last=True)):
        dispatcher.chunk(subject, message)
    assert everything(caller) == [1, 2, 3, 4]


def test_a_slow_way_back_gets_fewer_and_larger_responses(dispatcher: Any) -> None:
    subject, caller, ticket = opened(streaming=True)
    gate = threading.Event()
    send = caller.send

    def slow_send(tensors: Mapping[str, np.ndarray], *, final: bool) -> None:
        gate.wait(5)
        send(tensors, final=final)

    caller.send = slow_send  # type: ignore[method-assign]
    dispatcher.accepted(subject, ticket)
    dispatcher.chunk(subject, chunk(0))
    until(lambda: not subject.chunks, "the first chunk to be on its way")
    for token_id in range(1, 10):
        dispatcher.chunk(subject, chunk(token_id, last=token_id == 9))
    gate.set()
    assert caller.received.get(timeout=5) == ([0], False)
    assert caller.received.get(timeout=5) == (list(range(1, 10)), True)


def test_without_streaming_one_response_has_everything(dispatcher: Any) -> None:
    subject, caller, ticket = opened(streaming=False)
    dispatcher.accepted(subject, ticket)
    for message in (chunk(1, 2), chunk(3, last=True)):
        dispatcher.chunk(subject, message)
    assert caller.received.get(timeout=5) == ([1, 2, 3], True)


def test_a_chunk_may_come_before_its_ticket(dispatcher: Any) -> None:
    subject, caller, ticket = opened(streaming=True)
    dispatcher.chunk(subject, chunk(1, last=True))
    dispatcher.accepted(subject, ticket)
    assert caller.received.get(timeout=5) == ([1], True)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_direct_caller_who_has_gone_frees_the_slot(dispatcher: Any, streaming: bool) -> None:
    subject, caller, ticket = opened(streaming=streaming)
    dispatcher.accepted(subject, ticket)
    caller.has_gone = True
    if streaming:
        dispatcher.chunk(subject, chunk(1))
    assert ticket.cancelled.wait(5)
    assert caller.left.wait(5)


def test_stop_ends_the_request_with_that_key_only(dispatcher: Any) -> None:
    subject, caller, ticket = opened(streaming=True, key=7)
    other, _, untouched = opened(streaming=True, key=8)
    dispatcher.accepted(subject, ticket)
    dispatcher.accepted(other, untouched)
    dispatcher.stop(7)
    assert ticket.cancelled.wait(5)
    assert caller.left.wait(5)
    assert not untouched.cancelled.is_set()
    dispatcher.stop(12345)  # nobody's


def test_what_the_engine_still_says_after_the_end_is_dropped(dispatcher: Any) -> None:
    subject, caller, ticket = opened(streaming=True, key=7)
    dispatcher.accepted(subject, ticket)
    dispatcher.stop(7)
    dispatcher.chunk(subject, chunk(1, last=True))
    dispatcher.error(subject, RuntimeError("late"))
    assert ticket.cancelled.wait(5)
    dispatcher.close()
    assert caller.received.empty()
    assert caller.failures.empty()


@pytest.mark.parametrize("waiting", [True, False], ids=["in the queue", "decoded without streaming"])
def test_a_silent_request_behind_an_ensemble_shows_signs_of_life(
    dispatcher: Any, waiting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "WAITING_PAUSE_S", 0.0 if waiting else 600.0)
    monkeypatch.setattr(delivery, "ROUND_PAUSE_S", 0.0)
    subject, caller, ticket = opened(streaming=False, key=7)
    dispatcher.accepted(subject, ticket)
    if not waiting:
        dispatcher.chunk(subject, chunk(1, 2))
    assert caller.received.get(timeout=5) == ([], False)


def test_a_busy_stream_does_not_keep_others_from_showing_signs_of_life(
    dispatcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "WAITING_PAUSE_S", 0.0)
    busy, listener, ticket = opened(streaming=True)
    silent, caller, other_ticket = opened(streaming=False, key=7)
    dispatcher.accepted(busy, ticket)
    dispatcher.accepted(silent, other_ticket)

    def talk() -> bool:
        dispatcher.chunk(busy, chunk(1))
        return not caller.received.empty()

    until(talk, "a sign of life", every_s=delivery.TICK_S / 50)
    assert not listener.received.empty()


def test_a_direct_caller_gets_no_signs_of_life(dispatcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "ROUND_PAUSE_S", 0.0)
    subject, caller, ticket = opened(streaming=False)
    dispatcher.accepted(subject, ticket)
    dispatcher.chunk(subject, chunk(1))
    dispatcher.chunk(subject, chunk(2, last=True))
    assert caller.received.get(timeout=5) == ([1, 2], True)


def test_one_callers_trouble_does_not_end_the_others(dispatcher: Any, errors: list[str]) -> None:
    broken, caller, ticket = opened(streaming=True)
    caller.breaks = True
    healthy, listener, healthy_ticket = opened(streaming=True)
    dispatcher.accepted(broken, ticket)
    dispatcher.accepted(healthy, healthy_ticket)
    dispatcher.chunk(broken, chunk(1))
    dispatcher.chunk(healthy, chunk(2, last=True))
    assert listener.received.get(timeout=5) == ([2], True)
    assert until(lambda: errors, "the error in the log") == ["sending failed: RuntimeError: no way back"]
    assert ticket.cancelled.wait(5)


def test_an_error_of_the_engine_reaches_the_caller(dispatcher: Any) -> None:
    subject, caller, ticket = opened(streaming=True)
    dispatcher.accepted(subject, ticket)
    dispatcher.error(subject, RuntimeError("out of memory"))
    assert str(caller.failures.get(timeout=5)) == "out of memory"


def counters(rounds: int, drafted: int, accepted: int, seconds: float) -> Any:
    return replace(
        COUNTERS, rounds=rounds, drafted=drafted, accepted=accepted, last_token_ns=int(seconds * 1e9)
    )


def test_each_chunk_after_the_opening_counts_as_a_round(dispatcher: Any, meter: Meter) -> None:
    subject, caller, ticket = opened(streaming=True)
    dispatcher.accepted(subject, ticket)
    for ids, counts, last in (
        ((1,), counters(0, 0, 0, 1.0), None),
        ((2, 3, 4), counters(1, 5, 2, 1.25), None),
        ((5,), counters(2, 5, 2, 2.0), "length"),
    ):
        dispatcher.chunk(subject, Chunk(ids, (), last, counts))
    assert everything(caller) == [1, 2, 3, 4, 5]
    until(lambda: meter.outcomes == ["length"], "the request to be counted")
    assert meter.tokens == 1
    assert meter.rounds == [
        {"asked": 5, "drafted": 5, "accepted": 2, "tokens": 3, "seconds": 0.25},
        {"asked": 0, "drafted": 0, "accepted": 0, "tokens": 1, "seconds": 0.75},
    ]


def test_every_request_is_counted_by_its_end(dispatcher: Any, meter: Meter) -> None:
    stopped, _, ticket = opened(streaming=True, key=7)
    broken, _, other = opened(streaming=True)
    dispatcher.accepted(stopped, ticket)
    dispatcher.accepted(broken, other)
    dispatcher.stop(7)
    dispatcher.error(broken, RuntimeError("out of memory"))
    dispatcher.refused()
    until(lambda: meter.outcomes == ["cancelled", "error", "refused"], "the requests to be counted")


def test_counters_are_published_while_there_is_nothing_to_do(dispatcher: Any, meter: Meter) -> None:
    until(lambda: meter.flushed >= 2, "two publications")


class Clock:
    """Stands still but for what sending takes and what the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class SlowCaller(Caller):
    """Each response takes 10 ms of the clock."""

    clock: Clock

    def send(self, tensors: Mapping[str, np.ndarray], *, final: bool) -> None:
        self.clock.now += 0.01
        super().send(tensors, final=final)


def slow(clock: Clock) -> tuple[Any, Caller]:
    one, _, _ = opened(streaming=True)
    one.channel = SlowCaller()
    one.channel.clock = clock
    return one, one.channel


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(delivery, "time", clock)
    return clock


def test_responses_keep_a_distance_that_leaves_time_for_those_of_others(
    clock: Clock, dispatcher: Any
) -> None:
    """Two requests, 10 ms a response, 40 % of the time: a request may answer every 50 ms."""
    (first, caller), (second, other) = slow(clock), slow(clock)
    for one in (first, second):
        dispatcher.accepted(one, Ticket())
    for n in range(60):  # the average of what sending takes settles
        clock.now += 1
        dispatcher.chunk(first, chunk(n))
        assert caller.received.get(timeout=5) == ([n], False)
    dispatcher.chunk(first, chunk(100))
    dispatcher.chunk(first, chunk(101))
    dispatcher.chunk(second, chunk(200))
    assert other.received.get(timeout=5) == ([200], False)
    assert caller.received.empty()
    clock.now += 0.05
    assert caller.received.get(timeout=5) == ([100, 101], False)


def test_the_end_of_a_request_waits_for_nothing(clock: Clock, dispatcher: Any) -> None:
    first, caller = slow(clock)
    dispatcher.accepted(first, Ticket())
    for n in range(60):
        clock.now += 1
        dispatcher.chunk(first, chunk(n))
        caller.received.get(timeout=5)
    dispatcher.chunk(first, chunk(100))
    dispatcher.chunk(first, chunk(101, last=True))
    assert caller.received.get(timeout=5) == ([100, 101], True)


def test_what_is_held_is_sent_when_the_dispatcher_closes(
    clock: Clock, errors: list[str], meter: Meter
) -> None:
    dispatcher = delivery.Dispatcher(errors.append, meter)
    first, caller = slow(clock)
    dispatcher.accepted(first, Ticket())
    dispatcher.chunk(first, chunk(1))
    assert caller.received.get(timeout=5) == ([1], False)
    dispatcher.chunk(first, chunk(2))
    dispatcher.close()
    assert caller.received.get(timeout=5) == ([2], False)
