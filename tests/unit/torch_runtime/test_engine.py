# SPDX-License-Identifier: Apache-2.0
"""Many requests at once: independence, order, limits, cancellation, failures, and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from specbuild.errors import EngineError
from specbuild.torch_runtime import Chunk, Engine, QueueFullError, Request, Sampling, Settings
from support import running, tiny_models

PROMPT = [1, 5, 9, 33, 20, 7]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    target = tiny_models.save(folder / "target")
    return target, tiny_models.save_related(folder / "draft", like=target, noise=0.03)


@pytest.fixture
def engine(pair: tuple[Path, Path]) -> Iterator[Engine]:
    with running.engine(*pair) as loaded:
        yield loaded


def random_prompt(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    length = int(torch.randint(1, 60, (1,), generator=generator))
    return torch.randint(3, 64, (length,), generator=generator).tolist()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + running.DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        threading.Event().wait(0.001)


def test_fifty_concurrent_prompts_give_what_they_give_alone(engine: Engine) -> None:
    requests = [
        Request(prompt=random_prompt(seed), max_tokens=10 + seed, draft_length=seed % 9) for seed in range(50)
    ]
    alone = [running.finish(engine, request).tokens for request in requests]
    together = [result.tokens for result in running.finish_all(engine, requests)]
    assert together == alone


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_seed_reproduces_whatever_else_is_in_the_batch(pair: tuple[Path, Path], adaptive: bool) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.95, repetition_penalty=1.1, seed=2**64 - 1)
    request = Request(prompt=PROMPT, max_tokens=60, sampling=sampling)
    others = [
        Request(
            prompt=random_prompt(n),
            max_tokens=30 + n,
            draft_length=n % 9,
            sampling=Sampling(temperature=n % 3),
        )
        for n in range(12)
    ]
    with running.engine(*pair, adaptive=adaptive) as loaded:
        alone = running.finish(loaded, request).tokens
        results = running.finish_all(loaded, [*others[:6], request, *others[6:], request])
        assert results[6].tokens == results[-1].tokens == alone
        other_seed = Request(prompt=PROMPT, max_tokens=60, sampling=Sampling(temperature=1.0, seed=1))
        assert running.finish(loaded, other_seed).tokens != alone


def test_without_a_seed_outputs_differ(engine: Engine) -> None:
    request = Request(prompt=PROMPT, max_tokens=40, sampling=Sampling(temperature=1.5))
    outputs = {tuple(result.tokens) for result in running.finish_all(engine, [request] * 4)}
    assert len(outputs) == 4


def test_counters_add_up(engine: Engine) -> None:
    requests = [
        Request(
            prompt=random_prompt(seed),
            max_tokens=1 + seed,
            draft_length=seed % 9,
            end_ids=frozenset({seed % 64, 7, 40}) if seed % 2 else frozenset(),
            sampling=Sampling(temperature=(seed % 4) / 2),
        )
        for seed in range(60)
    ]
    cuts = 0
    for request, result in zip(requests, running.finish_all(engine, requests), strict=True):
        counters = result.counters
        cut = 1 + counters.rounds + counters.accepted - counters.output_tokens
        assert cut in ({0} if result.finish_reason == "length" else {0, 1})
        cuts += cut
        assert counters.output_tokens == len(result.tokens) <= request.max_tokens
        assert counters.input_tokens == len(request.prompt)
        assert counters.accepted == sum(counters.accepted_by_position)
        assert counters.drafted == sum(counters.drafted_by_position)
        assert counters.accepted <= counters.drafted
        assert len(counters.drafted_by_position) == request.draft_length
        assert counters.arrival_ns <= counters.first_scheduled_ns <= counters.first_token_ns
        assert counters.first_token_ns <= counters.last_token_ns <= time.monotonic_ns()
    assert cuts > 0
    status = engine.status()
    assert (status.active, status.waiting, status.finished) == (0, 0, 60)
    assert status.target_step_ms > 0 and status.draft_step_ms > 0


def test_chunks_are_the_rounds(engine: Engine) -> None:
    chunks = list(engine.generate(Request(prompt=PROMPT, max_tokens=50, draft_length=4)))
    assert len(chunks) == 1 + chunks[-1].counters.rounds
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    produced = [chunk.counters.output_tokens for chunk in chunks]
    assert produced == [sum(len(c.token_ids) for c in chunks[: i + 1]) for i in range(len(chunks))]


def plain_output(loaded: Engine, tokens: int = 60) -> list[int]:
    return running.finish(loaded, Request(prompt=PROMPT, max_tokens=tokens, draft_length=0)).tokens


@pytest.mark.parametrize("length", [0, 1, 3, 8])
def test_an_end_token_inside_a_burst_ends_the_output_there(pair: tuple[Path, Path], length: int) -> None:
    with running.engine(pair[0], pair[0]) as loaded:
        whole = plain_output(loaded)
        for token in sorted(set(whole)):
            request = Request(
                prompt=PROMPT, max_tokens=60, draft_length=length, end_ids=frozenset({token}), log_probs=True
            )
            result = running.finish(loaded, request)
            assert result.tokens == whole[: whole.index(token) + 1]
            assert result.finish_reason == "stop"
            assert sum(len(chunk.log_probs) for chunk in result.chunks) == len(result.tokens)


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_stop_sequences_match_across_rounds(engine: Engine, length: int) -> None:
    whole = plain_output(engine)
    for end in range(3, 20):
        stop = tuple(whole[end - 3 : end])
        first = next(i for i in range(3, 61) if tuple(whole[i - 3 : i]) == stop)
        request = Request(prompt=PROMPT, max_tokens=60, draft_length=length, stop_sequences=((63, 62), stop))
        result = running.finish(engine, request)
        assert (result.tokens, result.finish_reason) == (whole[:first], "stop")


def test_a_stop_sequence_does_not_begin_in_the_prompt(engine: Engine) -> None:
    first = plain_output(engine)[0]
    request = Request(prompt=PROMPT, max_tokens=5, stop_sequences=((PROMPT[-1], first),))
    assert len(running.finish(engine, request).tokens) == 5


@pytest.mark.parametrize("length", [0, 4])
def test_min_tokens_hold_back_end_tokens_and_stop_sequences(engine: Engine, length: int) -> None:
    whole = plain_output(engine)
    stop = tuple(whole[2:4])
    request = Request(
        prompt=PROMPT, max_tokens=60, min_tokens=10, draft_length=length, stop_sequences=(stop,)
    )
    assert len(running.finish(engine, request).tokens) >= 10
    end = Request(
        prompt=PROMPT, max_tokens=60, min_tokens=10, draft_length=length, end_ids=frozenset(whole[:20])
    )
    tokens = running.finish(engine, end).tokens
    assert len(tokens) >= 11
    assert not set(tokens[:10]) & set(whole[:20])


def test_log_probs_are_the_unmodified_targets(engine: Engine) -> None:
    sampling = Sampling(temperature=0.7, top_k=5, repetition_penalty=1.2, seed=5)
    for length in (0, 5):
        request = Request(
            prompt=PROMPT, max_tokens=40, draft_length=length, sampling=sampling, log_probs=True
        )
        result = running.finish(engine, request)
        ids = torch.tensor([*PROMPT, *result.tokens])
        with torch.inference_mode():
            logits = tiny_models.model("llama")(ids[None]).logits[0, len(PROMPT) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, ids[len(PROMPT) :, None])[:, 0]
        values = torch.tensor([value for chunk in result.chunks for value in chunk.log_probs])
        assert torch.allclose(values, expected, atol=1e-3)
    assert running.finish(engine, Request(prompt=PROMPT, max_tokens=3)).chunks[0].log_probs == ()


def test_cancelling_frees_the_slot_within_one_round(pair: tuple[Path, Path]) -> None:
    with running.engine(*pair, max_batch_size=1) as loaded:
        chunks: list[Chunk] = []
        entered, release = threading.Event(), threading.Event()

        def hold(chunk: Chunk) -> None:
            chunks.append(chunk)
            entered.set()
            assert release.wait(running.DEADLINE_S)

        ticket = loaded.submit(
            Request(prompt=PROMPT, max_tokens=100, draft_length=0), on_chunk=hold, on_error=pytest.fail
        )
        assert entered.wait(running.DEADLINE_S)
        ticket.cancel()  # in the middle of the first chunk's delivery
        following = running.start(loaded, Request(prompt=PROMPT, max_tokens=3))
        release.set()
        following.wait()
        ticket.cancel()
        assert len(chunks) <= 2
        assert (loaded.status().cancelled, loaded.status().finished) == (1, 1)


def test_closing_the_iterator_cancels(engine: Engine) -> None:
    stream = engine.generate(Request(prompt=PROMPT, max_tokens=100, draft_length=0))
    next(stream)
    stream.close()
    eventually(lambda: engine.status().active == 0)
    assert engine.status().output_tokens < 100


def test_a_full_queue_refuses_and_a_cancelled_place_is_free_again(pair: tuple[Path, Path]) -> None:
    with running.engine(*pair, max_batch_size=1, max_queue_size=2) as loaded:
        release, entered = threading.Event(), threading.Event()

        def hold(_: Chunk) -> None:
            entered.set()
            assert release.wait(running.DEADLINE_S)

        request = Request(prompt=PROMPT, max_tokens=2)
        loaded.submit(request, on_chunk=hold, on_error=pytest.fail)
        assert entered.wait(running.DEADLINE_S)
        waiting = [loaded.submit(request, on_chunk=lambda _: None, on_error=pytest.fail) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests are waiting"):
            running.start(loaded, request)
        waiting[0].cancel()
        taken = running.start(loaded, request)
        release.set()
        assert len(taken.wait().tokens) == 2


def test_long_prompts_do_not_hold_up_running_requests(pair: tuple[Path, Path]) -> None:
    with running.engine(*pair, prefill_chunk=1) as loaded:
        order: list[str] = []
        ended = threading.Event()

        def short(chunk: Chunk) -> None:
            order.append("short")
            if len(order) == 3:
                prompt = random_prompt(1)[:1] * 60
                loaded.submit(Request(prompt=prompt, max_tokens=1), on_chunk=long, on_error=pytest.fail)
            del chunk

        def long(_: Chunk) -> None:
            order.append("long")
            ended.set()

        request = Request(prompt=[3], max_tokens=100, draft_length=0)
        loaded.submit(request, on_chunk=short, on_error=pytest.fail)
        assert ended.wait(running.DEADLINE_S)
        assert 55 <= order.index("long") - 3 <= 65


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": []}, "empty"),
        ({"prompt": [1] * 101}, "101 tokens, more than max_input_len \\(100\\)"),
        ({"prompt": [64]}, "outside the vocabulary"),
        ({"prompt": [-1]}, "outside the vocabulary"),
        ({"max_tokens": 123}, "6 prompt tokens and max_tokens 123 exceed max_seq_len \\(128\\)"),
        ({"draft_length": 9}, "draft_length 9 is not in 0..8"),
        ({"draft_length": -1}, "draft_length -1"),
        ({"sampling": Sampling(bad_words=((70,),))}, "bad_words"),
    ],
)
def test_bad_requests_are_refused_and_the_next_one_is_served(
    engine: Engine, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        running.start(engine, Request(**{"prompt": PROMPT, "max_tokens": 4, **changes}))
    assert len(running.finish(engine, Request(prompt=PROMPT, max_tokens=4)).tokens) == 4


def test_a_failing_callback_ends_its_request_only(engine: Engine) -> None:
    calls = []

    def fail(chunk: Chunk) -> None:
        calls.append(chunk)
        raise ZeroDivisionError

    engine.submit(Request(prompt=PROMPT, max_tokens=50), on_chunk=fail, on_error=fail)
    assert len(running.finish(engine, Request(prompt=PROMPT, max_tokens=20)).tokens) == 20
    eventually(lambda: engine.status().active == 0)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("no memory"), RuntimeError("bad shape")])
def test_a_failing_model_fails_the_running_requests_and_the_engine_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original = engine._pair.play
    calls = []

    def play(sequences: Any) -> Any:
        calls.append(len(sequences))
        if len(calls) == 3:
            raise error
        return original(sequences)

    monkeypatch.setattr(engine._pair, "play", play)
    broken = running.start(engine, Request(prompt=PROMPT, max_tokens=100)).wait()
    assert isinstance(broken.error, EngineError)
    assert str(error) in str(broken.error)
    assert len(running.finish(engine, Request(prompt=PROMPT, max_tokens=20)).tokens) == 20
    assert (engine.status().failed, engine.status().active) == (1, 0)


def test_a_failing_prompt_leaves_the_running_requests_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = engine._pair.prefill

    def prefill(sequences: Any) -> Any:
        if sequences[0].request.prompt == [9]:
            raise RuntimeError("bad prompt")
        return original(sequences)

    monkeypatch.setattr(engine._pair, "prefill", prefill)
    healthy = running.start(engine, Request(prompt=PROMPT, max_tokens=60))
    broken = running.start(engine, Request(prompt=[9], max_tokens=5)).wait()
    assert isinstance(broken.error, EngineError)
    assert len(healthy.wait().tokens) == 60


def test_logits_that_are_not_finite_fail_the_request(tmp_path: Path) -> None:
    model = tiny_models.model("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[3, 0] = torch.nan
    model.save_pretrained(tmp_path)
    with running.engine(tmp_path, None) as loaded:
        result = running.start(loaded, Request(prompt=PROMPT, max_tokens=5)).wait()
    assert isinstance(result.error, EngineError)
    assert "not finite" in str(result.error)


def test_closing_fails_what_is_outstanding_and_refuses_what_comes(pair: tuple[Path, Path]) -> None:
    with running.engine(*pair, max_batch_size=1) as loaded:
        requests = [running.start(loaded, Request(prompt=PROMPT, max_tokens=120)) for _ in range(3)]
        loaded.close()
        for request in requests:
            request.wait()
        assert any(isinstance(request.error, EngineError) for request in requests)
        with pytest.raises(EngineError, match="closed"):
            running.start(loaded, Request(prompt=PROMPT, max_tokens=1))
        loaded.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "specbuild-engine"]


def test_an_engine_may_be_closed_from_a_callback(pair: tuple[Path, Path]) -> None:
    with running.engine(*pair) as loaded:
        loaded.submit(
            Request(prompt=PROMPT, max_tokens=50), on_chunk=lambda _: loaded.close(), on_error=lambda _: None
        )
        eventually(lambda: not loaded._thread.is_alive())


def test_requests_from_many_threads(engine: Engine) -> None:
    expected = plain_output(engine, 20)
    outputs: list[list[int]] = []

    def work() -> None:
        for _ in range(5):
            stream = engine.generate(Request(prompt=PROMPT, max_tokens=20))
            outputs.append([token for chunk in stream for token in chunk.token_ids])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(running.DEADLINE_S)
    assert outputs == [expected] * 40


def test_a_lost_device_ends_everything_and_tells_the_owner(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    lost = threading.Event()
    settings = Settings(
        draft_length=2,
        adaptive=False,
        max_batch_size=2,
        max_input_len=100,
        max_seq_len=128,
        device="cpu",
        threads=1,
    )
    with Engine.load(*pair, settings, on_lost=lost.set) as loaded:
        running.finish(loaded, Request(prompt=PROMPT, max_tokens=3))
        monkeypatch.setattr(loaded._pair, "play", fail)
        monkeypatch.setattr("specbuild.torch_runtime.device.probe", fail)
        result = running.start(loaded, Request(prompt=PROMPT, max_tokens=9)).wait()
        assert lost.wait(running.DEADLINE_S)
        with pytest.raises(
            EngineError, match="the GPU does not answer: CUDA error: an illegal memory access"
        ):
            loaded.submit(Request(prompt=PROMPT, max_tokens=3), on_chunk=print, on_error=print)
    assert isinstance(result.error, EngineError)
