# SPDX-License-Identifier: Apache-2.0
"""The acceptance that the torch runtime measures on a synthetic pair is the one written beside it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from specbuild.synthetic import predict_greedy
from specbuild.torch_runtime import Counters, Engine, Request, Sampling, Settings
from support.synthetic import tiny_pair

SETTINGS = Settings(
    draft_length=8, adaptive=False, max_batch_size=16, max_input_len=64, max_seq_len=512, threads=1
)
TOKENS = 400
REQUESTS = 32


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pair(tmp_path_factory.mktemp("pair") / "pair")


@pytest.fixture(scope="module")
def engine(pair: Path) -> Iterator[Engine]:
    with Engine.load(pair / "target", pair / "draft", SETTINGS) as loaded:
        yield loaded


def run(engine: Engine, requests: list[Request]) -> list[Counters]:
    def counters(request: Request) -> Counters:
        return list(engine.generate(request))[-1].counters

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(counters, requests))


@pytest.mark.parametrize("draft_length", [1, 4, 8])
def test_sampled_acceptance_agrees_within_sampling_error(
    engine: Engine, pair: Path, draft_length: int
) -> None:
    """Within 4 standard errors of the requests' own spread: a wrong verdict once in 16,000 seeds.

    32 requests of 400 tokens give a standard error of about 1 %: a wrong acceptance rule, such as taking
    the draft where both agree on the top token, is off by more than ten times that.
    """
    expected = json.loads((pair / "acceptance.json").read_text())["sampled"]["acceptance_length"][
        str(draft_length)
    ]
    finished = run(
        engine,
        [
            Request(
                prompt=[5 + seed],
                max_tokens=TOKENS,
                sampling=Sampling(temperature=1.0, seed=seed),
                draft_length=draft_length,
            )
            for seed in range(REQUESTS)
        ],
    )
    lengths = [1 + counters.accepted / counters.rounds for counters in finished]
    error = statistics.stdev(lengths) / math.sqrt(REQUESTS)
    assert error < 0.03 * expected, "too noisy to tell anything"
    assert abs(statistics.mean(lengths) - expected) < 4 * error


@pytest.mark.parametrize("draft_length", [1, 3, 8])
def test_greedy_acceptance_is_predicted_to_the_token(engine: Engine, pair: Path, draft_length: int) -> None:
    last = [7, 20, 33, 100]
    finished = run(
        engine, [Request(prompt=[token], max_tokens=TOKENS, draft_length=draft_length) for token in last]
    )
    expected = predict_greedy(pair, last, tokens=TOKENS, draft_length=draft_length)
    assert sum(counters.drafted for counters in finished) == expected.drafted
    assert sum(counters.accepted for counters in finished) == expected.accepted
    assert sum(counters.rounds for counters in finished) == expected.rounds
