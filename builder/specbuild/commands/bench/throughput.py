# SPDX-License-Identifier: Apache-2.0
"""``specbuild bench throughput``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specbuild.commands.bench import saving
from specbuild.commands.bench.options import LoadOptions, common, loads, server_fields, usage
from specbuild.commands.remote import Server, connected, sampling
from specbuild.errors import ConfigError

if TYPE_CHECKING:
    from specclient.bench import RateSearch, Workload


@click.command()
@connected
@sampling
@loads
@click.option(
    "--find-rate",
    metavar="LOW:HIGH",
    help="Search the highest rate, in requests per second, that keeps --goodput.",
)
@click.option(
    "--goodput-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.99,
    show_default=True,
    help="Share of the requests that must keep the limits in that search.",
)
@common("throughput")
def throughput(
    *,
    server: Server,
    fields: dict[str, Any],
    load: LoadOptions,
    find_rate: str | None,
    goodput_share: float,
    workload: Workload,
    random_seed: int,
    warmup_request_count: int,
    goodput: tuple[str, ...],
    gpu_hour_price: float | None,
    output: Path | None,
    artifact_dir: Path,
    as_json: bool,
) -> None:
    """Measure what the server sustains: tokens and requests per second over a sweep, goodput, cost.

    Concurrencies 1, 2, 4 and 8 unless --concurrency, --request-rate or --find-rate says otherwise.

    \b
    Example:
      specbuild bench throughput --concurrency 1:32:x2 -s 10
      specbuild bench throughput --request-rate 1,2,4 --duration 60 --goodput ttft:500
      specbuild bench throughput --find-rate 0.5:16 --goodput ttft:200 --goodput tpot:20
    """
    from specclient import GenerationParameters
    from specclient.bench import Rate, Settings, measure, search, slo

    rates = None if find_rate is None else _rates(find_rate, load, goodput)
    with usage():
        settings = Settings(
            **server_fields(server),
            loads=(
                load.points(workload, default="1,2,4,8")
                if rates is None
                else (Rate(rates.low, load.arrival, load.burstiness),)
            ),
            **load.length(),
            warmup_request_count=warmup_request_count,
            seed=random_seed,
            parameters=GenerationParameters(**fields),
            workload=workload,
            goodput=slo.limits(goodput),
            gpu_hour_price=gpu_hour_price,
        )
    outcome = saving.measured(
        "bench throughput",
        lambda progress: (
            measure(settings, "throughput", progress)
            if rates is None
            else search(settings, rates, share=goodput_share, on_progress=progress)
        ),
    )
    saving.finish(outcome, output=output, artifact_dir=artifact_dir, as_json=as_json)


def _rates(text: str, load: LoadOptions, goodput: tuple[str, ...]) -> RateSearch:
    """The search that ``--find-rate`` asks for."""
    from specclient.bench import RateSearch

    if load.concurrency is not None or load.request_rate is not None:
        raise ConfigError(
            "--find-rate chooses the rates itself", remedy="Leave out --concurrency and --request-rate."
        )
    if not goodput:
        raise ConfigError("--find-rate has no limits to keep", remedy="Add --goodput, as ttft:200.")
    low, _, high = text.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        raise ConfigError(f"--find-rate {text} is no range", remedy="Write LOW:HIGH, as 0.5:16.") from None
    with usage():
        return RateSearch(*ends)
