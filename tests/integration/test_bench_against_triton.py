# SPDX-License-Identifier: Apache-2.0
"""The harness against a real Triton with a model that does nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from specbuild import server
from specclient import GenerationParameters, ModelNotFound
from specclient.bench import Concurrency, Prompt, Rate, Settings, Workload, document, measure
from support import noop

PARAMETERS = GenerationParameters(max_tokens=1, temperature=0.0)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server.running(noop.deployment(tmp_path_factory.mktemp("noop"))) as running:
        yield running.grpc


def test_every_request_is_answered_and_counted_by_both_sides(url: str) -> None:
    settings = Settings(
        url=url, loads=(Concurrency(1), Concurrency(8), Rate(200)), request_count=300, parameters=PARAMETERS
    )
    report = document(measure(settings, "throughput"))
    assert report["complete"], report["failure"]
    for run in report["runs"]:
        assert run["requests"] == {"succeeded": 300, "failed": 0, "outside_window": 2, "cut_off": 0}
        (model,) = run["server"] or ()
        assert (model["model"], model["role"]) == ("ensemble", "front")
        # Triton notes a request a moment after its last response: one may be counted in the next run.
        assert abs(model["requests"] - 302) <= 8
        assert model["request_ms"] is not None and model["busy_s"] > 0
    assert report["provenance"]["servers"][0]["server"] == "triton"


def test_a_prompt_larger_than_the_windows_gets_through(url: str) -> None:
    workload = Workload("long", "CC0-1.0", (Prompt("long", "code", "word " * 400_000),))
    outcome = measure(Settings(url=url, request_count=4, workload=workload, parameters=PARAMETERS), "latency")
    assert outcome.complete, outcome.failure


def test_a_wrong_model_ends_the_run_and_a_wrong_prompt_does_not(url: str) -> None:
    outcome = measure(Settings(url=url, model="no-such", request_count=3), "latency")
    assert isinstance(outcome.failure, ModelNotFound)
    workload = Workload("empty", "CC0-1.0", (Prompt("a", "code", "x"), Prompt("b", "code", "y" * (5 << 20))))
    report = document(
        measure(Settings(url=url, request_count=6, workload=workload, parameters=PARAMETERS), "latency")
    )
    assert report["complete"] and report["runs"][0]["errors"] == {"InvalidRequest": 3}
