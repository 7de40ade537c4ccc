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


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma2", "gemma3"])
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
