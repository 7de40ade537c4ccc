# SPDX-License-Identifier: Apache-2.0
"""Triton's statistics as differences, draft and target apart."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from specclient.bench.server_side import difference, figures, statistics, together


def reading(**models: tuple[int, int, int]) -> Any:
    """(requests, executions, compute milliseconds) by model."""
    response = service_pb2.ModelStatisticsResponse()
    for name, (requests, executions, compute_ms) in models.items():
        model = response.model_stats.add(name=name, version="1", execution_count=executions)
        model.inference_stats.success.count = requests
        model.inference_stats.success.ns = 2 * compute_ms * 1_000_000
        model.inference_stats.compute_infer.ns = compute_ms * 1_000_000
    return statistics(response)


def test_the_difference_of_two_readings_tells_draft_and_target_apart() -> None:
    before = reading(ensemble=(5, 0, 0), tensorrt_llm=(10, 10, 100))
    after = reading(
        ensemble=(7, 0, 0), tensorrt_llm=(20, 15, 400), tensorrt_llm_draft=(50, 50, 60), idle=(0, 0, 0)
    )
    found = {model["model"]: model for model in figures(difference(before, after), front="ensemble")}
    assert {name: model["role"] for name, model in found.items()} == {
        "ensemble": "front",
        "tensorrt_llm": "target",
        "tensorrt_llm_draft": "draft",
    }
    target, draft = found["tensorrt_llm"], found["tensorrt_llm_draft"]
    assert (target["requests"], target["executions"]) == (10, 5)
    assert target["busy_s"] == pytest.approx(0.3) and target["compute_infer_ms"] == pytest.approx(30)
    assert target["request_ms"] == pytest.approx(60) and draft["busy_s"] == pytest.approx(0.06)


def test_differences_add_up() -> None:
    nothing, some = reading(torch=(0, 0, 0)), reading(torch=(3, 2, 9))
    (model,) = figures(together([difference(nothing, some)] * 2), front="ensemble")
    assert (model["requests"], model["busy_s"], model["role"]) == (6, pytest.approx(0.018), "target")


def test_a_model_without_requests_has_no_means() -> None:
    (model,) = figures(reading(speculative=(0, 4, 0)), front="ensemble")
    assert model["request_ms"] is None and model["role"] == "other"
