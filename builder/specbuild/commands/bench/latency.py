# SPDX-License-Identifier: Apache-2.0
"""``specbuild bench latency``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specbuild.commands.bench import saving
from specbuild.commands.bench.options import LoadOptions, common, loads, server_fields, usage
from specbuild.commands.remote import Server, connected, sampling

if TYPE_CHECKING:
    from specclient.bench import Workload


@click.command()
@connected
@sampling
@loads
@common("latency")
def latency(
    *,
    server: Server,
    fields: dict[str, Any],
    load: LoadOptions,
    workload: Workload,
    random_seed: int,
    warmup_request_count: int,
    goodput: tuple[str, ...],
    gpu_hour_price: float | None,
    output: Path | None,
    artifact_dir: Path,
    as_json: bool,
) -> None:
    """Measure how long answers take: TTFT, TPOT, gaps between chunks, whole requests.

    One request at a time unless --concurrency or --request-rate says otherwise.

    \b
    Example:
      specbuild bench latency --request-count 50 --max-tokens 128
      specbuild bench latency --request-rate 2 --arrival poisson --duration 60
    """
    from specclient import GenerationParameters
    from specclient.bench import Settings, measure, slo

    with usage():
        settings = Settings(
            **server_fields(server),
            loads=load.points(workload, default="1"),
            **load.length(),
            warmup_request_count=warmup_request_count,
            seed=random_seed,
            parameters=GenerationParameters(**fields),
            workload=workload,
            goodput=slo.limits(goodput),
            gpu_hour_price=gpu_hour_price,
        )
    outcome = saving.measured("bench latency", lambda progress: measure(settings, "latency", progress))
    saving.finish(outcome, output=output, artifact_dir=artifact_dir, as_json=as_json)
