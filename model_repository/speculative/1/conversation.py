# SPDX-License-Identifier: Apache-2.0
"""One request from its first token to its last: a coroutine that calls draft and target in turn.

Knows nothing of Triton: engines, caller and counters come in as the protocols below.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import calls
import draft_length
import numpy as np
from asked import Asked
from calls import Tensors
from draft_length import Policy
from reply import Reply
from rounds import OPENING, Outcome, Round, Text

SIGN_PAUSE_S = 0.5
"""Silence after which a request shows a sign of life; see postprocessing, which watches for it."""
ROUND_PAUSE_S = 0.05
"""The same between the rounds of a request that does not stream."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
"""How long a draft that failed is left alone, at first and at most."""


Result = TypeVar("Result")


class EngineError(Exception):
    """An engine refused or failed; the message is the engine's own."""


class ClientGoneError(Exception):
    """Nobody waits for the request any more."""


class Engine(Protocol):
    """A model that generates: a Triton model, or a test's."""

    async def generate(self, request: str, tensors: Tensors, outputs: Sequence[str]) -> Tensors:
        """The engine's whole answer. Raises EngineError."""

    async def stop(self, request: str) -> None:
        """The engine no longer works for that request, or will not after the step that is running."""


class Channel(Protocol):
    """The way back to the caller."""

    def send(self, tensors: Mapping[str, np.ndarray], *, final: bool) -> None: ...

    def gone(self) -> bool:
        """Whether the caller has left."""


@dataclass(frozen=True)
class Proposal:
    """What the draft proposes."""

    tokens: Sequence[int]
    logits: np.ndarray | None
    """What they were drawn by; None when they were not drawn."""


class Meter(Protocol):
    """Counters of the model."""

    def opened(self, tokens: int) -> None: ...

    def played(self, *, asked: int, drafted: int, accepted: int, tokens: int, seconds: float) -> None: ...

    def spent_outside(self, seconds: float) -> None: ...

    def fallback(self, reason: str) -> None: ...


class Health:
    """Whether the draft is worth a call. After a failure it is left alone for a while, longer each time."""

    def __init__(self) -> None:
        self._pause = FIRST_RETRY_S
        self._until = 0.0

    def good(self) -> bool:
        return time.monotonic() >= self._until

    def failed(self) -> None:
        self._until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LAST_RETRY_S)

    def worked(self) -> None:
        self._pause = FIRST_RETRY_S


@dataclass(frozen=True)
class House:
    """What all requests share."""

    target: Engine
    draft: Engine
    how: calls.Verification
    policy: Policy
    health: Health
    meter: Meter
    draft_timeout_s: float


class Conversation:
    """One request at work."""

    def __init__(self, asked: Asked, house: House, channel: Channel) -> None:
        self._asked = asked
        self._house = house
        self._channel = channel
        self._text = Text(
            asked.prompt, asked.max_tokens, asked.min_tokens, asked.end_id, asked.stop_sequences
        )
        self._reply = Reply(asked, self._text)
        self._acceptance = draft_length.new_request()
        self._drafts = house.how.drafts_for(asked)
        self._draft_knows_prompt = False
        self._warm_up: asyncio.Task[Proposal | None] | None = None
        self._id = str(secrets.randbits(63))
        self._seed = secrets.randbits(64) if asked.seed is None else asked.seed
        self._calls = 0
        self._last_sign = time.monotonic()
        self._unsaid: Tensors | None = None
        self._in_engines = 0.0
        self._cancelled = False

    @property
    def key(self) -> int | None:
        """What the request is stopped by."""
        return self._asked.key

    def cancel(self, task: asyncio.Task[None]) -> None:
        """End the request, which ``task`` serves.

        It is noted too: asyncio makes one of two cancellations that come together, and the other may be that
        of a call that took too long, after which the request would go on.
        """
        self._cancelled = True
        task.cancel()

    async def wait(self, seats: asyncio.Semaphore) -> None:
        """Return with a seat taken; shows signs of life until then."""
        taken = asyncio.ensure_future(seats.acquire())
        try:
            await self._watched(taken)
        except BaseException:
            if not (taken.cancelled() or taken.cancel()):
                seats.release()
            raise

    async def run(self) -> str:
        """Generate and deliver everything; the reason of the end.

        Raises EngineError when the target fails, ClientGoneError, or CancelledError; the engines have
        been told to stop then.
        """
        self._house.policy.arrived()
        try:
            self._reply.scheduled()
            await self._open()
            while not self._text.finish:
                await self._play()
        except BaseException:
            await self._stop(self._house.target, self._house.draft)
            raise
        finally:
            self._house.policy.left()
        return self._text.finish

    async def _open(self) -> None:
        """The prompt's pass of the target, while the draft reads the prompt too."""
        start = time.monotonic()
        limit = self._limit(self._text.remaining - OPENING.length - 1)
        if self._house.policy.choose(self._acceptance, limit):
            self._warm_up = asyncio.create_task(self._propose(1))
        answer = await self._verify(OPENING)
        self._take(OPENING, answer, start)
        self._speak()
        if self._warm_up is not None:
            if self._text.finish:
                await self._stop(self._house.draft)
            else:
                await self._watched(self._warm_up)

    async def _play(self) -> None:
        """One round, as the policy wants it."""
        policy, limit = self._house.policy, self._limit(self._text.remaining - 1)
        asked = self._text.next(policy.choose(self._acceptance, limit), self._burst())
        if not limit:
            await self._round(asked)
            return
        started = policy.begin(drafting=asked.draft > 0)
        start, tokens, knew_prompt = time.monotonic(), 0, self._draft_knows_prompt
        try:
            tokens = await self._round(asked)
        finally:
            # No other round takes the time in which the draft reads the prompt, or fails.
            typical = tokens > 0 and (not asked.draft or (knew_prompt and self._drafts))
            policy.end(started, tokens, time.monotonic() - start, typical=typical)

    async def _round(self, asked: Round) -> int:
        """Tokens that the round has added."""
        start, self._in_engines = time.monotonic(), 0.0
        proposal = await self._propose(asked.draft) if asked.draft else None
        if asked.draft and proposal is None:
            asked = self._text.next(0, self._burst())
        answer = await self._verify(asked, proposal)
        outcome = self._take(asked, answer, start, proposal)
        if asked.draft:
            self._house.policy.judged(self._acceptance, outcome.drafted, outcome.accepted)
        return len(outcome.tokens)

    def _limit(self, room: int) -> int:
        """Draft tokens that the next round may have, when at most ``room`` are of use."""
        drafting = self._drafts and self._house.health.good()
        return max(min(self._asked.draft_length if drafting else 0, room), 0)

    def _burst(self) -> int:
        """Tokens of a round without draft tokens."""
        return draft_length.STREAMED_BURST if self._asked.streaming else self._house.policy.burst()

    async def _propose(self, length: int) -> Proposal | None:
        """Tokens from the draft; None when it fails, and the target goes on alone."""
        asked, how = self._asked, self._house.how
        tensors = calls.draft_call(asked, self._turn(), length, how)
        start = time.monotonic()
        try:
            answer = await self._ask(
                self._house.draft, tensors, calls.draft_outputs(asked, how), self._house.draft_timeout_s
            )
            drafted = calls.tokens(answer, length)
            proposal = Proposal(drafted, calls.draft_logits(asked, drafted, answer, how))
        except (EngineError, calls.AnswerError, asyncio.TimeoutError) as error:
            self._drafts = False
            self._house.health.failed()
            self._house.meter.fallback("timeout" if isinstance(error, asyncio.TimeoutError) else "error")
            return None
        self._house.health.worked()
        if self._draft_knows_prompt:
            self._house.policy.drafted(length, time.monotonic() - start)
        self._draft_knows_prompt = True
        return proposal

    async def _verify(self, asked: Round, proposal: Proposal | None = None) -> Tensors:
        """The target's answer to a round."""
        length = asked.length if proposal is None else len(proposal.tokens) + 1
        if proposal is None:
            tensors = calls.target_call(self._asked, self._turn(), length)
        else:
            tensors = calls.target_call(self._asked, self._turn(), length, proposal.tokens, proposal.logits)
        policy, start = self._house.policy, time.monotonic()
        in_pass = 1 if proposal is None else length
        entered = policy.traffic.enter(in_pass)
        try:
            answer = await self._ask(self._house.target, tensors, calls.target_outputs(self._asked))
        finally:
            together = policy.traffic.leave(in_pass, entered)
        if proposal is not None:
            policy.verified(together, time.monotonic() - start)
        return answer

    def _take(self, asked: Round, answer: Tensors, start: float, proposal: Proposal | None = None) -> Outcome:
        """Make the answer part of the text, and say what is to be said."""
        drafted = () if proposal is None else proposal.tokens
        limit = asked.length if proposal is None else len(drafted) + 1
        outcome = self._text.absorb(asked, drafted, calls.tokens(answer, limit))
        log_probs = calls.log_probs(answer, len(outcome.tokens)) if self._asked.log_probs else []
        self._reply.took(outcome.tokens, log_probs)
        self._deliver()
        self._count(asked, outcome, time.monotonic() - start)
        return outcome

    def _count(self, asked: Round, outcome: Outcome, seconds: float) -> None:
        meter = self._house.meter
        if asked is OPENING:
            meter.opened(len(outcome.tokens))
            return
        meter.played(
            asked=asked.draft,
            drafted=outcome.drafted,
            accepted=outcome.accepted,
            tokens=len(outcome.tokens),
            seconds=seconds,
        )
        meter.spent_outside(max(0.0, seconds - self._in_engines))

    def _deliver(self) -> None:
        """Send the last response; any other waits until the next call is on its way, to cost it no time."""
        due = self._reply.due()
        if self._text.finish:
            assert due is not None
            self._channel.send(due, final=True)
            return
        self._require_client()
        if due is None and self._asked.key is not None and self._silent_for(ROUND_PAUSE_S):
            due = self._reply.sign_of_life()
        self._unsaid = due

    def _speak(self) -> None:
        if self._unsaid is not None:
            self._last_sign = time.monotonic()
            self._channel.send(self._unsaid, final=False)
            self._unsaid = None

    def _silent_for(self, seconds: float) -> bool:
        return time.monotonic() - self._last_sign >= seconds

    async def _ask(
        self, engine: Engine, tensors: Tensors, outputs: Sequence[str], timeout_s: float | None = None
    ) -> Tensors:
        start = time.monotonic()
        # When the call has left. A task of its own for the call would cost a tenth of a millisecond.
        asyncio.get_running_loop().call_soon(self._speak)
        try:
            answer = await self._watched(engine.generate(self._id, tensors, outputs), timeout_s)
        except asyncio.TimeoutError:
            await engine.stop(self._id)
            raise
        finally:
            self._in_engines += time.monotonic() - start
        self._speak()
        return answer

    async def _watched(self, work: Awaitable[Result], timeout_s: float | None = None) -> Result:
        """What ``work`` gives. Raises ClientGoneError, and asyncio.TimeoutError; it is cancelled then."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        deadline = math.inf if timeout_s is None else loop.time() + timeout_s
        complaint: Exception | None = None

        def look() -> None:
            nonlocal timer, complaint
            try:
                if loop.time() >= deadline:
                    raise asyncio.TimeoutError
                self._require_client()
                self._show_life()
            except Exception as error:
                complaint = error
                task.cancel()
            else:
                timer = loop.call_at(min(loop.time() + SIGN_PAUSE_S, deadline), look)

        timer = loop.call_at(min(loop.time() + SIGN_PAUSE_S, deadline), look)
        try:
            return await work
        except asyncio.CancelledError:
            if complaint is None or self._cancelled:
                raise
            raise complaint from None
        finally:
            timer.cancel()

    def _require_client(self) -> None:
        if self._asked.key is None and self._channel.gone():
            raise ClientGoneError

    def _show_life(self) -> None:
        if self._asked.key is not None:
            self._unsaid = self._reply.sign_of_life()
            self._speak()

    def _turn(self) -> calls.Turn:
        self._calls += 1
        seed = calls.seed_of(self._seed, self._calls)
        return calls.Turn(self._text.tokens, self._text.held_back, seed)

    async def _stop(self, *engines: Engine) -> None:
        """The engines no longer work for this request; whether they could be told does not matter."""
        if self._warm_up is not None:
            self._warm_up.cancel()
        await asyncio.gather(*(engine.stop(self._id) for engine in engines), return_exceptions=True)
