# SPDX-License-Identifier: Apache-2.0
"""Triton's own statistics of each model, as the difference of two readings.

With engines behind a BLS model the draft and the target are models of their own, so their times come apart
here. Of a decoupled model in Python, such as the torch runtime's, Triton times the step that takes a request
in, and not the generation that follows (measured on 2.51).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Literal

from specclient.bench.document import ServerModel


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """Of one model since it was loaded; times are sums over requests in nanoseconds."""

    requests: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    request_ns: int = 0

    def __add__(self, other: ModelTotals) -> ModelTotals:
        return ModelTotals(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: ModelTotals) -> ModelTotals:
        return ModelTotals(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


Statistics = Mapping[tuple[str, str], ModelTotals]
"""(model, version) -> its totals."""


def statistics(response: Any) -> Statistics:
    """From a ``ModelStatisticsResponse``."""
    found = {}
    for model in response.model_stats:
        times = model.inference_stats
        found[model.name, model.version] = ModelTotals(
            requests=times.success.count,
            executions=model.execution_count,
            queue_ns=times.queue.ns,
            compute_input_ns=times.compute_input.ns,
            compute_infer_ns=times.compute_infer.ns,
            compute_output_ns=times.compute_output.ns,
            request_ns=times.success.ns,
        )
    return found


def difference(before: Statistics, after: Statistics) -> Statistics:
    """What happened between two readings; a model that was loaded in between counts from nothing."""
    return {key: totals - before.get(key, ModelTotals()) for key, totals in after.items()}


def together(parts: Iterable[Statistics]) -> Statistics:
    """The sum of several differences."""
    total: dict[tuple[str, str], ModelTotals] = {}
    for part in parts:
        for key, totals in part.items():
            total[key] = total.get(key, ModelTotals()) + totals
    return total


def figures(change: Statistics, *, front: str) -> list[ServerModel]:
    """Means per request of every model that was used."""
    return [
        _figures(name, version, totals, front)
        for (name, version), totals in sorted(change.items())
        if totals.requests or totals.executions
    ]


def _figures(name: str, version: str, totals: ModelTotals, front: str) -> ServerModel:
    def mean(total_ns: int) -> float | None:
        return total_ns / totals.requests / 1e6 if totals.requests else None

    return {
        "model": name,
        "version": version,
        "role": _role(name, front),
        "requests": totals.requests,
        "executions": totals.executions,
        "queue_ms": mean(totals.queue_ns),
        "compute_input_ms": mean(totals.compute_input_ns),
        "compute_infer_ms": mean(totals.compute_infer_ns),
        "compute_output_ms": mean(totals.compute_output_ns),
        "request_ms": mean(totals.request_ns),
        "busy_s": totals.compute_infer_ns / 1e9,
    }


def _role(name: str, front: str) -> Literal["front", "draft", "target", "other"]:
    """By the names that specbuild's and NVIDIA's repositories use."""
    if name == front:
        return "front"
    if re.search(r"(^|_)draft", name):
        return "draft"
    return "target" if name in {"tensorrt_llm", "torch", "llmapi"} else "other"
