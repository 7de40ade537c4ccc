# SPDX-License-Identifier: Apache-2.0
"""``specbuild bench compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specbuild.commands.bench import saving
from specbuild.commands.bench.options import common, concurrencies, server_fields, usage
from specbuild.commands.remote import Server, connected, sampling

if TYPE_CHECKING:
    from specclient.bench import Workload


@click.command()
@connected
@sampling
@click.option(
    "--concurrency",
    metavar="N|N,N,..|A:B[:STEP]",
    default="1",
    show_default=True,
    help="Requests at a time: 4, or 1,2,4,8, or 1:32:x2; the speed-up is reported for each.",
)
@click.option(
    "--request-count",
    type=click.IntRange(min=1),
    help="Prompts per concurrency; each is sent with and without speculation.  [default: 20, or 8 per user]",
)
@common("compare")
def compare(
    *,
    server: Server,
    fields: dict[str, Any],
    concurrency: str,
    request_count: int | None,
    workload: Workload,
    random_seed: int,
    warmup_request_count: int,
    goodput: tuple[str, ...],
    gpu_hour_price: float | None,
    output: Path | None,
    artifact_dir: Path,
    as_json: bool,
) -> None:
    """Send the same prompts with and without speculation, alternating; report the speed-up.

    Greedy unless --temperature, --top-k or --top-p is given; then both runs of a prompt must give the
    same tokens. The report is saved as JSON, also when the run is interrupted ("complete": false).

    \b
    Example:
      specbuild bench compare --request-count 20 --max-tokens 128
      specbuild bench compare --concurrency 1:8:x2 --temperature 0.8 --output compare.json
    """
    from specclient import GenerationParameters
    from specclient.bench import Settings, slo
    from specclient.bench import compare as run

    with usage():
        settings = Settings(
            **server_fields(server),
            loads=concurrencies(concurrency),
            request_count=request_count,
            warmup_request_count=warmup_request_count,
            seed=random_seed,
            parameters=GenerationParameters(**fields),
            workload=workload,
            goodput=slo.limits(goodput),
            gpu_hour_price=gpu_hour_price,
        )
        outcome = saving.measured("bench compare", lambda progress: run(settings, progress))
    saving.finish(outcome, output=output, artifact_dir=artifact_dir, as_json=as_json)
