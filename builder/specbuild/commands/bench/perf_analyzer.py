# SPDX-License-Identifier: Apache-2.0
"""``specbuild bench perf-analyzer``."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specbuild.commands.bench import saving
from specbuild.commands.bench.options import common, concurrencies, server_fields, usage
from specbuild.commands.remote import Server, connected, sampling
from specbuild.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from specclient.bench import Workload
    from specclient.bench.document import Arrival
    from specclient.bench.load import Load


@click.command("perf-analyzer")
@connected
@sampling
@click.option(
    "--concurrency",
    metavar="N|N,N,..|A:B[:STEP]",
    help="Requests at a time: 4, or 1,2,4,8, or 1:32:x2.  [default: 1]",
)
@click.option("--request-rate", metavar="R|R,R,..|A:B[:STEP]", help="Requests per second instead, likewise.")
@click.option(
    "--arrival",
    type=click.Choice(["constant", "poisson"]),
    default="poisson",
    show_default=True,
    help="Law of the arrivals at a request rate.",
)
@click.option(
    "--request-count",
    type=click.IntRange(min=1),
    help="Requests per load point.  [default: 20, or 8 per user]",
)
@click.option(
    "--perf-analyzer",
    "program",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The program.  [default: perf_analyzer beside specbuild or in PATH]",
)
@common("perf-analyzer")
def perf_analyzer(
    *,
    server: Server,
    fields: dict[str, Any],
    concurrency: str | None,
    request_rate: str | None,
    arrival: Arrival,
    request_count: int | None,
    program: Path | None,
    workload: Workload,
    random_seed: int,
    warmup_request_count: int,
    goodput: tuple[str, ...],
    gpu_hour_price: float | None,
    output: Path | None,
    artifact_dir: Path,
    as_json: bool,
) -> None:
    """Measure with NVIDIA's perf_analyzer, which gets the same prompts; its figures as a report of ours.

    Its command, input file, output and export are kept in a folder beside the report. Unlike the report,
    they hold the prompts and the answers.

    \b
    Example:
      specbuild bench perf-analyzer --concurrency 1,4 --request-count 50
      specbuild bench perf-analyzer --request-rate 2 --num-draft-tokens 0
    """
    from specclient import GenerationParameters
    from specclient.bench import Progress, Settings, slo
    from specclient.bench import perf_analyzer as harness

    found = program.absolute() if program is not None else _program()
    path = output or artifact_dir / f"perf-analyzer-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.json"
    with usage():
        points = _points(concurrency, request_rate, arrival)
        settings = Settings(
            **server_fields(server),
            loads=points,
            request_count=request_count,
            warmup_request_count=warmup_request_count,
            seed=random_seed,
            parameters=GenerationParameters(**fields),
            workload=workload,
            goodput=slo.limits(goodput),
            gpu_hour_price=gpu_hour_price,
        )
        harness.check(settings)
    outcome = saving.measured(
        "bench perf-analyzer",
        lambda progress: harness.measure(
            settings,
            found,
            path.with_name(f"{path.stem}.perf_analyzer"),
            lambda load: progress(
                Progress("measuring", points.index(load) + 1, len(points), harness.ARM, load)
            ),
        ),
    )
    saving.finish(outcome, output=path, artifact_dir=artifact_dir, as_json=as_json)


def _points(concurrency: str | None, request_rate: str | None, arrival: Arrival) -> tuple[Load, ...]:
    from specclient.bench.load import Rate, numbers

    if concurrency is not None and request_rate is not None:
        raise ConfigError(
            "--concurrency is a closed loop and --request-rate an open one", remedy="Give one of them."
        )
    if request_rate is not None:
        return tuple(Rate(rate, arrival) for rate in numbers(request_rate))
    return concurrencies(concurrency or "1")


def _program() -> Path:
    """Where perf_analyzer is: beside this Python, as `make perf-analyzer` installs it, or in PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("perf_analyzer", path=places)
    if found is None:
        raise MissingDependencyError(
            "perf_analyzer is not installed",
            remedy="Run `make perf-analyzer` in a checkout, or `pip install perf-analyzer` (glibc 2.38), "
            "or name it with --perf-analyzer.",
        )
    return Path(found)
