# SPDX-License-Identifier: Apache-2.0
"""The loop of draft and target: the target's own output, however the draft behaves."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from support.loop import (
    END,
    VOCABULARY,
    Caller,
    Rig,
    asked,
    baseline,
    calls,
    conversation,
    request_tensors,
    rig,
    tables,
)

words = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3), max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 30),
    num_draft_tokens=st.integers(0, 5),
    max_tokens=st.integers(1, 24),
    min_tokens=st.integers(0, 24),
    stop=words,
    streaming=st.booleans(),
    adaptive=st.booleans(),
)
def test_greedy_output_is_the_targets_own(
    seed: int,
    num_draft_tokens: int,
    max_tokens: int,
    min_tokens: int,
    stop: list[list[int]],
    streaming: bool,
    adaptive: bool,
) -> None:
    target, draft = tables(seed)
    fields: dict[str, Any] = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "end_id": END,
        "stop_words_list": stop,
    }
    caller = asyncio.run(
        rig(target, draft, adaptive=adaptive).generate(
            num_draft_tokens=num_draft_tokens, streaming=streaming, **fields
        )
    )
    assert caller.tokens == baseline(target, **fields)
    assert caller.finals == [False] * (len(caller.finals) - 1) + [True]
    assert caller.last("num_output_tokens") == len(caller.tokens)


def test_a_draft_that_is_always_right_takes_the_fewest_rounds() -> None:
    target, _ = tables(0)
    caller = asyncio.run(rig(target, target).generate(max_tokens=13))
    assert caller.last("num_rounds") == 2
    assert caller.last("total_draft_tokens") == caller.last("total_accepted_draft_tokens") == 10
    assert caller.last("acceptance_rate") == 1.0


def test_an_end_token_inside_a_draft_ends_the_text() -> None:
    cycle = np.full((VOCABULARY, VOCABULARY), -9.0)
    for token in range(VOCABULARY):
        cycle[token, (token + 1) % VOCABULARY] = 9.0
    caller = asyncio.run(rig(cycle, cycle).generate(prompt=(6,), max_tokens=50, end_id=END))
    assert caller.tokens == [7, 8, 9, 10]
    assert caller.last("finish_reason") == b"stop"


def test_an_engine_that_returns_the_end_token_makes_no_difference() -> None:
    target, draft = tables(3)
    subject = rig(target, draft)
    subject.target.returns_end = True
    fields = {"max_tokens": 40, "end_id": END}
    assert asyncio.run(subject.generate(**fields)).tokens == baseline(target, **fields)


TEXTS, TEXT_LENGTH, LEVEL = 1200, 4, 1e-4
SAMPLINGS: list[dict[str, Any]] = [
    {"runtime_top_p": 1.0},
    {"runtime_top_p": 1.0, "temperature": 0.7},
    {"runtime_top_k": 4},
    {"runtime_top_p": 0.8},
]


@pytest.mark.parametrize("by_logits", [False, True], ids=["exact", "logits"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_sampled_output_has_the_targets_distribution(by_logits: bool, sampling: dict[str, Any]) -> None:
    """Chi-square test of pairs of successive tokens against their exact probabilities, at level 1e-4.

    Its power is computed in ``power``: if a twelfth of the texts ended otherwise than they should, it would
    show with probability 0.99.
    """
    target, draft = tables(5, sharpness=1.0, noise=0.7)
    subject = rig(target, draft, by_logits=by_logits)
    observed, wanted = cells(pair_counts(subject, sampling), target, sampling)
    assert power(wanted, shift=1 / 12) > 0.99
    assert stats.chisquare(observed, wanted).pvalue > LEVEL
    assert any(played["asked"] for played in subject.meter.rounds)


@pytest.mark.parametrize("by_logits", [False, True], ids=["exact", "logits"])
def test_that_test_finds_the_engines_own_rule_for_drafts_without_logits(by_logits: bool) -> None:
    """TensorRT-LLM draws again from everything after a mismatch; calls.py says why the loop sends logits."""
    target, draft = tables(5, sharpness=1.0, noise=0.7)
    subject = rig(target, draft, by_logits=by_logits)
    verify = subject.target.answer

    def without_logits(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return verify({name: value for name, value in tensors.items() if name != "draft_logits"})

    subject.target.answer = without_logits  # type: ignore[method-assign]
    observed, wanted = cells(pair_counts(subject, SAMPLINGS[0]), target, SAMPLINGS[0])
    assert stats.chisquare(observed, wanted).pvalue < LEVEL


def pair_counts(subject: Rig, sampling: dict[str, Any]) -> np.ndarray:
    """How often each pair of tokens ends a text [vocabulary, vocabulary]."""

    async def sample() -> np.ndarray:
        counts = np.zeros((VOCABULARY,) * 2)
        for seed in range(TEXTS):
            tokens = (await subject.generate(max_tokens=TEXT_LENGTH, seed=seed, **sampling)).tokens
            counts[tokens[-2], tokens[-1]] += 1
        return counts

    return asyncio.run(sample())


def cells(counts: np.ndarray, table: np.ndarray, sampling: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Observed and expected counts, rare pairs together, for a chi-square test."""
    expected = TEXTS * pair_probabilities(table, TEXT_LENGTH, sampling)
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    if wanted[-1] < 1:
        observed, wanted = observed[:-1], wanted[:-1] * observed[:-1].sum() / wanted[:-1].sum()
    return observed, wanted


def power(expected: np.ndarray, shift: float) -> float:
    """Probability that the test shows a ``shift`` of all texts between the two most frequent pairs."""
    moved = (shift * expected.sum()) ** 2 * (1 / np.sort(expected)[-2:]).sum()
    freedom = len(expected) - 1
    return float(stats.ncx2.sf(stats.chi2.isf(LEVEL, freedom), freedom, moved))


def pair_probabilities(table: np.ndarray, length: int, sampling: dict[str, Any]) -> np.ndarray:
    """Joint distribution of the last two of ``length`` tokens after the token 3."""
    from support.table_engine import _Work

    def row(token: int) -> np.ndarray:
        tensors = request_tensors(prompt=(token,), **sampling)
        return _Work(table.astype(np.float64), tensors).distribution()

    transition = np.array([row(token) for token in range(VOCABULARY)])
    before = np.eye(VOCABULARY)[3] @ np.linalg.matrix_power(transition, length - 1)
    return before[:, None] * transition


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    target, draft = tables(5, sharpness=1.0)
    one, same, other = (
        asyncio.run(rig(target, draft).generate(max_tokens=20, seed=seed, runtime_top_p=1.0)).tokens
        for seed in (7, 7, 8)
    )
    assert one == same != other


def test_every_call_of_a_sampled_request_has_a_seed_of_its_own() -> None:
    target, draft = tables(5, sharpness=1.0)
    subject = rig(target, draft, by_logits=True)
    asyncio.run(subject.generate(max_tokens=20, seed=7, runtime_top_p=1.0))
    seeds = [tensors["seed"].item() for tensors in (*subject.target.asked, *subject.draft.asked)]
    assert len(set(seeds)) == len(seeds) > 3


def test_every_per_request_tensor_goes_along_in_every_round() -> None:
    target, draft = tables(1)
    subject = rig(target, draft)
    fields = {"repetition_penalty": 1, "pad_id": 0, "bad_words_list": [[9]], "runtime_top_k": 1}
    asyncio.run(subject.generate(max_tokens=20, **fields))
    for tensors in subject.target.asked:
        assert fields.keys() <= tensors.keys()
    for tensors in subject.draft.asked:
        assert {"repetition_penalty", "bad_words_list", "pad_id"} <= tensors.keys()


def test_without_the_vocabulary_size_sampled_requests_are_not_drafted_for() -> None:
    target, draft = tables(5, sharpness=1.0)
    subject = rig(target, draft, vocab_size=0)
    asyncio.run(subject.generate(max_tokens=20, runtime_top_p=1.0))
    assert subject.draft.asked == []
    asyncio.run(subject.generate(max_tokens=20))
    assert subject.draft.asked


def test_no_draft_length_beyond_the_engines_is_ever_sent() -> None:
    target, draft = tables(2)
    subject = rig(target, draft, adaptive=True)
    asyncio.run(subject.generate(max_tokens=200))
    assert max(t["draft_input_ids"].shape[1] for t in subject.target.asked if "draft_input_ids" in t) <= 5


def test_a_stream_speaks_after_the_opening_and_after_every_round() -> None:
    target, draft = tables(4)
    caller = asyncio.run(rig(target, draft).generate(max_tokens=20, streaming=True))
    assert caller.responses[0]["output_ids"].shape == (1, 1, 1)
    assert len(caller.responses) == 1 + caller.last("num_rounds")
    for earlier, later in itertools.pairwise(caller.responses):
        context = [*earlier["context_ids"].reshape(-1), *earlier["output_ids"].reshape(-1)]
        assert later["context_ids"].reshape(-1).tolist() == context


def test_without_streaming_the_output_may_begin_with_the_prompt() -> None:
    target, draft = tables(4)
    caller = asyncio.run(rig(target, draft).generate(max_tokens=5, exclude_input_in_output=False))
    assert len(caller.responses) == 1
    assert caller.tokens == [1, 2, 3, *baseline(target, max_tokens=5)]


def test_log_probs_come_for_every_token() -> None:
    target, draft = tables(4)
    caller = asyncio.run(rig(target, draft).generate(max_tokens=9, return_log_probs=True))
    log_probs = caller.responses[-1]["output_log_probs"].reshape(-1)
    assert len(log_probs) == 9
    assert caller.last("cum_log_probs") == pytest.approx(log_probs.sum(), rel=1e-5)
    assert (log_probs < 0).all()


def test_output_beyond_the_longest_sequence_is_cut() -> None:
    target, draft = tables(4)
    caller = asyncio.run(rig(target, draft).generate(prompt=(1,) * 507, max_tokens=50))
    assert len(caller.tokens) == 5
    assert caller.last("finish_reason") == b"length"


async def reached(fact: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not fact():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 5)


class Trouble:
    """Something that happens at the n-th call."""

    def __init__(self, at: int, error: Exception | None = None) -> None:
        self.left = at
        self.error = error
        self.hangs = asyncio.Event()

    def __call__(self) -> Any:
        self.left -= 1
        if self.left > 0:
            return None
        if self.error is not None:
            raise self.error
        return self.hangs.wait()


@pytest.mark.parametrize("at", [1, 2, 4], ids=lambda at: f"call {at}")
def test_a_draft_that_fails_leaves_the_target_alone(at: int) -> None:
    target, draft = tables(0)
    subject = rig(target, draft)
    subject.draft.before = Trouble(at, conversation.EngineError("CUDA out of memory"))
    caller = asyncio.run(subject.generate(max_tokens=30))
    assert caller.tokens == baseline(target, max_tokens=30)
    assert subject.meter.fallbacks == ["error"]
    assert len(subject.draft.asked) == at


async def test_a_draft_that_hangs_is_given_up_and_told_to_stop() -> None:
    target, draft = tables(0)
    subject = rig(target, draft, draft_timeout_s=0.05)
    subject.draft.before = Trouble(2)
    caller = await subject.generate(max_tokens=30)
    assert caller.tokens == baseline(target, max_tokens=30)
    assert subject.meter.fallbacks == ["timeout"]
    assert len(subject.draft.stopped) == 1
    assert not subject.health.good()


async def test_a_failing_draft_is_left_alone_by_the_next_requests() -> None:
    target, draft = tables(0)
    subject = rig(target, draft)
    subject.draft.before = Trouble(1, conversation.EngineError("gone"))
    for _ in range(3):
        await subject.generate(max_tokens=10)
    assert len(subject.draft.asked) == 1


async def test_an_error_of_the_target_ends_the_request_and_the_drafts_work() -> None:
    target, draft = tables(0)
    subject = rig(target, draft)
    subject.target.before = Trouble(2, conversation.EngineError("boom"))
    with pytest.raises(conversation.EngineError, match="boom"):
        await subject.generate(max_tokens=30)
    assert len(subject.target.stopped) == len(subject.draft.stopped) == 1


@pytest.mark.parametrize("engine", ["target", "draft"])
async def test_cancelling_stops_both_engines_at_once(engine: str) -> None:
    target, draft = tables(0)
    subject = rig(target, draft)
    trouble = Trouble(2)
    getattr(subject, engine).before = trouble
    task = asyncio.create_task(subject.generate(max_tokens=30))
    await reached(lambda: trouble.left <= 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(subject.target.stopped) == len(subject.draft.stopped) == 1
    assert subject.target.stopped == subject.draft.stopped
    assert subject.policy.requests == 0


@pytest.mark.parametrize("first", ["stop", "timeout"])
async def test_a_stop_that_comes_with_a_timeout_is_not_lost(first: str) -> None:
    """Both in one iteration of the event loop, which is blocked until both are due."""
    target, draft = tables(0)
    subject = rig(target, draft, draft_timeout_s=0.05)
    trouble = Trouble(2)
    subject.draft.before = trouble
    request = asked.read(request_tensors(max_tokens=30, request_key=7), subject.limits)
    talk = conversation.Conversation(request, subject.house, Caller())
    task = asyncio.create_task(talk.run())
    await reached(lambda: trouble.left <= 0)
    loop = asyncio.get_running_loop()
    if first == "stop":
        loop.call_soon(talk.cancel, task)
    else:
        loop.call_later(0.06, talk.cancel, task)
    time.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(subject.target.stopped) == 1


async def test_a_direct_caller_who_has_gone_ends_the_request() -> None:
    target, draft = tables(0)
    subject = rig(target, draft)
    caller = Caller(left=True)
    request = asked.read(request_tensors(max_tokens=30, streaming=True), subject.limits)
    with pytest.raises(conversation.ClientGoneError):
        await conversation.Conversation(request, subject.house, caller).run()
    assert len(subject.target.asked) == 1


async def test_a_silent_request_behind_an_ensemble_shows_signs_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversation, "SIGN_PAUSE_S", 0.01)
    target, draft = tables(0)
    subject = rig(target, draft)
    trouble = Trouble(1)
    subject.target.before = trouble
    caller = Caller()
    request = asked.read(request_tensors(request_key=7), subject.limits)
    task = asyncio.create_task(conversation.Conversation(request, subject.house, caller).run())
    await reached(lambda: bool(caller.responses))
    assert caller.tokens == []
    assert caller.finals == [False]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_draft_without_logits_is_an_error_of_the_draft() -> None:
    target, draft = tables(5, sharpness=1.0)
    subject = rig(target, draft, by_logits=True)
    subject.draft.answer = lambda tensors: {  # type: ignore[method-assign]
        "output_ids": np.array([[[1]]], np.int32),
        "sequence_length": np.array([[1]], np.int32),
    }
    caller = asyncio.run(subject.generate(max_tokens=10, runtime_top_p=1.0))
    assert len(caller.tokens) == 10
    assert subject.meter.fallbacks == ["error"]


def test_logits_are_fitted_to_the_targets_vocabulary() -> None:
    how = calls.Verification(by_logits=True, fast_logits=False, vocab_size=16)
    request = asked.read(request_tensors(runtime_top_p=1.0), asked.Limits(5, 0, True))
    logits = calls.draft_logits(request, [1], {"generation_logits": np.zeros((1, 1, 1, 12), np.float32)}, how)
    assert logits.shape == (1, 16)
    assert (logits[:, 12:] <= -1e29).all()
    with pytest.raises(calls.AnswerError, match="columns"):
        calls.draft_logits(request, [1], {"generation_logits": np.zeros((1, 1, 1, 32), np.float32)}, how)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_draft_tokens": 6}, "num_draft_tokens: 6, this deployment takes 0 to 5"),
        ({"num_draft_tokens": -1}, "num_draft_tokens: -1"),
        ({"max_tokens": 0}, "max_tokens: 0"),
        ({"min_tokens": -1}, "min_tokens: -1"),
        ({"beam_width": 2}, "beam_width: beam search is not available with speculation"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"return_context_logits": 1}, "return_context_logits"),
        ({"return_generation_logits": 1}, "return_generation_logits"),
        ({"prompt": ()}, "text_input: missing"),
        ({"prompt": (1,) * 512}, "text_input: 512 tokens"),
    ],
    ids=str,
)
def test_refusals_name_the_field_of_the_front_model(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(asked.AskedError, match=message):
        asked.read(request_tensors(**fields), asked.Limits(5, 512, True))


@pytest.mark.parametrize(
    ("fields", "greedy"),
    [
        ({}, True),
        ({"temperature": 0.7}, True),
        ({"runtime_top_k": 1, "runtime_top_p": 0.9}, True),
        ({"runtime_top_p": 0.0}, True),
        ({"runtime_top_p": 0.9}, False),
        ({"runtime_top_k": 50}, False),
        ({"runtime_top_k": 50, "temperature": 0.0}, True),
    ],
    ids=str,
)
def test_greedy_is_what_tensorrt_llms_runtime_takes_for_it(fields: dict[str, Any], greedy: bool) -> None:
    assert asked.read(request_tensors(**fields), asked.Limits(5, 512, True)).greedy is greedy


def test_a_word_list_of_padding_alone_holds_no_words() -> None:
    tensors = request_tensors() | {"stop_words_list": np.array([[[0], [-1]]], np.int32)}
    assert asked.read(tensors, asked.Limits(5, 512, True)).stop_sequences == ()
