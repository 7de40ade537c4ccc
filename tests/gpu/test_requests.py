# SPDX-License-Identifier: Apache-2.0
"""Requests on a GPU: sampling is exact, and those that are cancelled leave nothing behind."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from specbuild.torch_runtime import Engine, Request, Sampling
from support import running

from .conftest import Models

pytestmark = pytest.mark.gpu

PROMPT = [5, 77, 101, 12]
SAMPLES = 4096
_RARE = 8.0
_SIGNIFICANT = 1e-6


def surprise(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """The probability of counts at least as far from ``expected``, by Pearson's test; rare cells pooled."""
    rare = [cell for cell, count in expected.items() if count < _RARE]
    cells = [(counts[cell], count) for cell, count in expected.items() if count >= _RARE]
    cells.append(
        (sum(counts.values()) - sum(seen for seen, _ in cells), sum(expected[cell] for cell in rare))
    )
    statistic = sum((seen - count) ** 2 / count for seen, count in cells if count > 0)
    return float(chi2.sf(statistic, len(cells) - 1))


@pytest.mark.parametrize("length", [0, 1, 4])
def test_sampled_tokens_have_the_targets_distribution(engine: Engine, models: Models, length: int) -> None:
    """The second and third token together, given the first: accepted, resampled and bonus ones."""
    sampling = {"temperature": 0.7, "top_k": 6}
    requests = [
        Request(prompt=PROMPT, max_tokens=3, draft_length=length, sampling=Sampling(seed=seed, **sampling))
        for seed in range(SAMPLES)
    ]
    done = [one for n in range(0, SAMPLES, 256) for one in running.finish_all(engine, requests[n : n + 256])]
    firsts = Counter(one.tokens[0] for one in done)
    first, seen = firsts.most_common(1)[0]
    counts = Counter(tuple(one.tokens[1:]) for one in done if one.tokens[0] == first)
    expected: dict[tuple[int, ...], float] = {}
    for second, p in _distribution(models, [*PROMPT, first], **sampling).items():
        for third, q in _distribution(models, [*PROMPT, first, second], **sampling).items():
            expected[second, third] = seen * p * q
    assert seen > 300
    # Rounding to bfloat16 moves a probability by a per cent or so; the test sees what moves it by ten.
    assert surprise(counts, expected) > _SIGNIFICANT


def _distribution(models: Models, context: list[int], *, temperature: float, top_k: int) -> dict[int, float]:
    logits = models.referee.logits(context)[-1] / temperature
    best = torch.topk(logits, top_k)
    shares = np.asarray(torch.softmax(best.values, -1), dtype=float)
    return dict(zip(best.indices.tolist(), shares.tolist(), strict=True))


def test_a_seed_gives_the_same_tokens_whatever_else_runs(engine: Engine) -> None:
    sampling = Sampling(temperature=0.9, top_p=0.9, seed=11)
    request = Request(prompt=PROMPT, max_tokens=40, sampling=sampling)
    alone = running.finish(engine, request).tokens
    others = [Request(prompt=[9, n], max_tokens=60, sampling=Sampling(temperature=1.0)) for n in range(3, 20)]
    crowd = running.finish_all(engine, [*others, request])
    same = sum(a == b for a, b in zip(alone, crowd[-1].tokens, strict=True))
    # A batch of another size may round otherwise, and after one other token all others differ.
    print(f"{same} of {len(alone)} tokens are the same in company")
    assert same >= 5


def test_cancelled_requests_leave_their_slots_and_no_trace(engine: Engine, models: Models) -> None:
    survivors = [Request(prompt=[40 + n, 7, 90], max_tokens=60) for n in range(8)]
    alone = [running.finish(engine, request).tokens for request in survivors]
    before = engine.status().cancelled
    doomed = []
    for n in range(80):  # more than there are slots: some are cancelled while they wait
        collected = running.Collected()
        request = Request(prompt=[n + 3] * (1 + 9 * n), max_tokens=1000)
        doomed.append(
            (engine.submit(request, on_chunk=collected.on_chunk, on_error=collected.on_error), collected)
        )
    started = [running.start(engine, request) for request in survivors]
    for ticket, _ in doomed:
        ticket.cancel()
    got = [one.wait().tokens for one in started]
    found = models.referee.divergences([list(one.prompt) for one in survivors], alone, got)
    assert all(one.near_tie for one in found), found
    status = engine.status()
    assert status.cancelled - before == len(doomed)
    assert status.waiting == 0
    assert all(collected.error is None for _, collected in doomed)
    assert all(collected.finish_reason is None for _, collected in doomed if collected.chunks)
