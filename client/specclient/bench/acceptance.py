# SPDX-License-Identifier: Apache-2.0
"""How far the drafts went, from the counters that come with each chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from specclient.bench.document import Acceptance, PositionAcceptance
from specclient.completion import Completion, Counters


@dataclass(frozen=True, slots=True)
class Step:
    """What one chunk added. ``tokens`` is None where the server counts them at the end only."""

    tokens: int | None
    rounds: int | None
    draft_tokens: int | None
    accepted_draft_tokens: int | None


def steps(answer: Completion) -> list[Step]:
    """The differences of successive counters, one for each chunk."""
    made, before = [], Counters()
    for chunk in answer.chunks:
        now = chunk.counters
        tokens = len(chunk.token_ids) or now.num_output_tokens - before.num_output_tokens
        counted = bool(answer.counters.num_rounds)
        made.append(
            Step(
                tokens=tokens if answer.token_ids or _counts_each_chunk(answer) else None,
                rounds=now.num_rounds - before.num_rounds if counted else None,
                draft_tokens=now.total_draft_tokens - before.total_draft_tokens if counted else None,
                accepted_draft_tokens=(
                    now.total_accepted_draft_tokens - before.total_accepted_draft_tokens if counted else None
                ),
            )
        )
        before = now
    return made


def _counts_each_chunk(answer: Completion) -> bool:
    """Whether the first chunk has a count of tokens, so that the others have too."""
    return bool(answer.chunks) and answer.chunks[0].counters.num_output_tokens > 0


def totals(answers: Iterable[Completion]) -> Counters:
    """The counters of all answers, added up: rates of it are token-weighted."""
    columns = zip(*(asdict(answer.counters).values() for answer in answers), strict=True)
    return Counters(*(sum(column) for column in columns))


def acceptance(answers: Sequence[Completion]) -> Acceptance:
    """Over all answers, token-weighted."""
    counters = totals(answers)
    positions, rounds = _by_position(answers)
    return {
        "length": counters.acceptance_length,
        "rate": counters.draft_acceptance_rate,
        "rounds": counters.num_rounds,
        "draft_tokens": counters.total_draft_tokens,
        "accepted_draft_tokens": counters.total_accepted_draft_tokens,
        "by_position": positions or None,
        "attributed_rounds": rounds,
    }


def _by_position(answers: Sequence[Completion]) -> tuple[list[PositionAcceptance], int]:
    """A round accepts a prefix of its draft, so one that drafted d and accepted a says all about 1 to d.

    A chunk of several rounds does not say how they shared its counts, and is left out.
    """
    drafted: list[int] = []
    accepted: list[int] = []
    rounds = 0
    for step in (step for answer in answers for step in steps(answer)):
        if step.rounds != 1 or not step.draft_tokens:
            continue
        rounds += 1
        missing = step.draft_tokens - len(drafted)
        drafted += [0] * missing
        accepted += [0] * missing
        for position in range(step.draft_tokens):
            drafted[position] += 1
            accepted[position] += position < (step.accepted_draft_tokens or 0)
    return [
        {"position": number, "drafted": d, "accepted": a, "rate": a / d}
        for number, (d, a) in enumerate(zip(drafted, accepted, strict=True), 1)
    ], rounds
