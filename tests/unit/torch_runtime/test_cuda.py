# SPDX-License-Identifier: Apache-2.0
"""The same engine on a GPU: what it decodes there equals what it decodes on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from specbuild.torch_runtime import Engine, Request, Sampling
from support import running, tiny_models

pytestmark = pytest.mark.gpu

PROMPT = [1, 5, 9, 33, 20, 7]


@pytest.fixture(scope="module", autouse=True)
def exact_products() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module", params=tiny_models.FAMILIES)
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Engine]]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    target = tiny_models.save(folder / "target", request.param)
    draft = tiny_models.save_related(folder / "draft", like=target, noise=0.03)
    with running.engine(target, draft) as cpu, running.engine(target, draft, device="cuda") as gpu:
        yield [cpu, gpu]


@pytest.mark.parametrize("length", [0, 1, 4, 8])
def test_greedy_tokens_are_the_cpus(engines: list[Engine], length: int) -> None:
    request = Request(prompt=PROMPT, max_tokens=122, draft_length=length)
    cpu, gpu = (running.finish(one, request) for one in engines)
    assert gpu.tokens == cpu.tokens


def test_seeded_samples_are_the_cpus(engines: list[Engine]) -> None:
    sampling = Sampling(
        temperature=0.9, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=3, bad_words=((5,), (9, 33))
    )
    request = Request(prompt=PROMPT, max_tokens=60, sampling=sampling, min_tokens=20, end_ids=frozenset({7}))
    cpu, gpu = (running.finish(one, request) for one in engines)
    assert gpu.tokens == cpu.tokens


def test_concurrent_requests_give_what_they_give_alone(engines: list[Engine]) -> None:
    _, gpu = engines
    requests = [Request(prompt=[3 + n, 9, 4], max_tokens=20 + n, draft_length=n % 9) for n in range(20)]
    alone = [running.finish(gpu, request).tokens for request in requests]
    assert [result.tokens for result in running.finish_all(gpu, requests)] == alone
    status = gpu.status()
    assert status.target_step_ms > 0 and status.draft_step_ms > 0


def test_samples_of_whole_batches_are_the_cpus(engines: list[Engine]) -> None:
    requests = [
        Request(
            prompt=[3 + n, 9, 4],
            max_tokens=30 + n,
            draft_length=n % 9,
            sampling=Sampling(temperature=[0.0, 0.7, 1.3][n % 3], top_k=[0, 0, 0, 12][n % 4], seed=n),
        )
        for n in range(12)
    ]
    cpu, gpu = (running.finish_all(one, requests) for one in engines)
    assert [result.tokens for result in gpu] == [result.tokens for result in cpu]


def test_log_probs_and_penalties_are_the_cpus(engines: list[Engine]) -> None:
    sampling = Sampling(repetition_penalty=1.3, bad_words=((5,), (9, 33)))
    request = Request(prompt=PROMPT, max_tokens=40, sampling=sampling, log_probs=True)
    cpu, gpu = (running.finish(one, request) for one in engines)
    assert gpu.tokens == cpu.tokens
    pairs = zip(
        (value for chunk in gpu.chunks for value in chunk.log_probs),
        (value for chunk in cpu.chunks for value in chunk.log_probs),
        strict=True,
    )
    assert all(one == pytest.approx(other, abs=1e-3) for one, other in pairs)


def test_a_cancelled_request_leaves_its_slot_to_others(engines: list[Engine]) -> None:
    _, gpu = engines
    expected = running.finish(gpu, Request(prompt=PROMPT, max_tokens=50, draft_length=3)).tokens
    for _ in range(6):
        chunks = gpu.generate(Request(prompt=[9, 8, 7], max_tokens=100, draft_length=4))
        for _ in range(3):
            next(chunks)
        chunks.close()
        assert running.finish(gpu, Request(prompt=PROMPT, max_tokens=50, draft_length=3)).tokens == expected


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_adaptive_lengths_do_not_change_greedy_tokens(family: str, tmp_path: Path) -> None:
    target = tiny_models.save(tmp_path / "target", family)
    draft = tiny_models.save_related(tmp_path / "draft", like=target, noise=0.1)
    with running.engine(target, draft, device="cuda", adaptive=True, max_batch_size=3) as gpu:
        # As if a round without draft tokens were cheap at times, so that drafting stops and resumes.
        plain = Request(prompt=PROMPT, max_tokens=110, draft_length=0)
        expected = running.finish(gpu, plain).tokens
        pair = gpu._pair
        chosen = iter([0, 3, 0, 0, 2, 8, 1, 0] * 100)
        pair.policy.choose = lambda requests, limits, seconds: min(next(chosen), max(limits, default=0))  # type: ignore[method-assign]
        request = Request(prompt=PROMPT, max_tokens=110)
        for result in running.finish_all(gpu, [request] * 5):
            assert result.tokens == expected


def test_in_bfloat16_speculation_changes_no_more_than_near_ties(tmp_path: Path) -> None:
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.1}
    target = tiny_models.save(tmp_path / "target", dtype=torch.bfloat16, **shape)
    draft = tiny_models.save_related(tmp_path / "draft", like=target, noise=0.03)
    with running.engine(target, draft, device="cuda") as gpu:
        differing = 0
        for first in range(40):
            prompt = [first % 60, 5, 9]
            plain, spoken = (
                running.finish(gpu, Request(prompt=prompt, max_tokens=60, draft_length=n)).tokens
                for n in (0, 5)
            )
            differing += plain != spoken
    # Attention sums its keys in other groups; a token differs only where two logits round to neighbours.
    print(f"{differing} of 40 outputs differ")
    assert differing <= 8
