# SPDX-License-Identifier: Apache-2.0
"""The engine's samples have the target's distribution, found by enumeration, under every setting.

Three-token outputs of a vocabulary of five are counted over 1,500 requests and tested by chi-squared at
level 0.001, and outputs that the settings exclude must not occur. The power is asserted in each test: an
engine that let one output in ten through as the draft alone would have written it is found with
probability above 0.99.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from specbuild.torch_runtime import Request, Sampling
from support import running, tiny_models

SIZE = 5
SAMPLES = 1500
PROMPT = [3, 1]
TOKENS = 3
END = 4
TRUNCATED = {"top_k": 3, "top_p": 0.85, "temperature": 0.8}
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature 1": {"temperature": 1.0},
    "temperature 0.6": {"temperature": 0.6},
    "top-k": {"temperature": 1.3, "top_k": 3},
    "top-p": {"temperature": 1.0, "top_p": 0.8},
    "top-k and top-p": TRUNCATED,
    "penalties": {
        "temperature": 0.9,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
    },
    "bad words": {"temperature": 1.0, "bad_words": ((2,), (0, 1), (3, 1, 0))},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    shape = {"vocab_size": SIZE, "num_hidden_layers": 1, "initializer_range": 0.35}
    return (
        tiny_models.save(folder / "target", seed=4, **shape),
        tiny_models.save(folder / "draft", seed=14, **shape),
    )


def processed(
    logits: NDArray[np.float64], past: list[int], sampling: dict[str, Any], banned: set[int]
) -> NDArray[np.float64]:
    """The settings applied to one position, written down a second time and plainly."""
    scaled = logits / sampling["temperature"]
    for token in range(SIZE):
        if count := past.count(token):
            penalty = sampling.get("repetition_penalty", 1.0)
            scaled[token] *= penalty if scaled[token] < 0 else 1 / penalty
            scaled[token] -= sampling.get("presence_penalty", 0) + count * sampling.get(
                "frequency_penalty", 0
            )
    for word in sampling.get("bad_words", ()):
        if tuple(past[len(past) - len(word) + 1 :]) == word[:-1]:
            banned = banned | {word[-1]}
    scaled[list(banned)] = -np.inf
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    p[order[sampling.get("top_k") or SIZE :]] = 0
    p /= p.sum()
    before = np.concatenate([[0], np.cumsum(p[order])[:-1]])
    p[order[before >= sampling.get("top_p", 1.1)]] = 0
    return p / p.sum()


@torch.inference_mode()
def enumerated(folder: Path, sampling: dict[str, Any], minimum: int = 0) -> dict[tuple[int, ...], float]:
    """Probability of every output; with ``minimum`` END ends it, but not before so many tokens."""
    model = tiny_models.load(folder)
    whole: dict[tuple[int, ...], float] = {}
    open_ones: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(TOKENS):
        extended: dict[tuple[int, ...], float] = {}
        banned = {END} if step < minimum else set()
        for output, probability in open_ones.items():
            logits = model(torch.tensor([[*PROMPT, *output]])).logits[0, -1].double().numpy()
            p = processed(logits, [*PROMPT, *output], sampling, banned)
            for token in range(SIZE):
                ended = minimum and token == END
                (whole if ended else extended)[(*output, token)] = probability * p[token]
        open_ones = extended
    return whole | open_ones


def check(
    counts: Counter[tuple[int, ...]], p: dict[tuple[int, ...], float], q: dict[tuple[int, ...], float]
) -> None:
    """Chi-squared of ``counts`` against ``p``; rare outputs are pooled."""
    total = counts.total()
    assert all(p[output] > 0 for output in counts), "an impossible output occurred"
    frequent = [output for output in p if p[output] * total >= 5]

    def pooled(values: dict[tuple[int, ...], float]) -> NDArray[np.float64]:
        kept = np.array([values.get(output, 0.0) for output in frequent])
        return np.append(kept, max(0.0, sum(values.values()) - kept.sum()))

    expected, observed, drafts = pooled(p), pooled(dict(counts)), pooled(q)
    used = expected * total >= 1
    freedom = used.sum() - 1
    noncentrality = total * np.sum((0.1 * (drafts - expected))[used] ** 2 / expected[used])
    missed = stats.ncx2.cdf(stats.chi2.ppf(0.999, freedom), freedom, noncentrality)
    excluded = sum(probability for output, probability in q.items() if not p.get(output))
    assert missed * (1 - 0.1 * excluded) ** total < 0.01
    statistic = np.sum((observed - total * expected)[used] ** 2 / (total * expected[used]))
    assert stats.chi2.sf(statistic, freedom) > 1e-3


def sampled(pair: tuple[Path, Path], requests: list[Request], **settings: Any) -> Counter[tuple[int, ...]]:
    with running.engine(
        *pair,
        draft_length=2,
        max_batch_size=32,
        max_queue_size=SAMPLES,
        max_input_len=8,
        max_seq_len=16,
        **settings,
    ) as loaded:
        results = running.finish_all(loaded, requests)
        status = loaded.status()
    assert 0 < status.accepted < status.drafted
    return Counter(tuple(result.tokens) for result in results)


@pytest.mark.parametrize("name", SETTINGS)
def test_samples_have_the_targets_distribution(pair: tuple[Path, Path], name: str) -> None:
    settings = SETTINGS[name]
    requests = [
        Request(prompt=PROMPT, max_tokens=TOKENS, sampling=Sampling(seed=seed, **settings))
        for seed in range(SAMPLES)
    ]
    check(sampled(pair, requests), enumerated(pair[0], settings), enumerated(pair[1], settings))


def test_min_tokens_suppresses_the_end_and_nothing_else(pair: tuple[Path, Path]) -> None:
    settings = {"temperature": 1.0}
    requests = [
        Request(
            prompt=PROMPT,
            max_tokens=TOKENS,
            min_tokens=2,
            end_ids=frozenset({END}),
            sampling=Sampling(seed=seed, **settings),
        )
        for seed in range(SAMPLES)
    ]
    check(sampled(pair, requests), enumerated(pair[0], settings, 2), enumerated(pair[1], settings, 2))
