# SPDX-License-Identifier: Apache-2.0
"""``specbuild bench``: measurements on the running server."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specbuild import artifacts, progress
from specbuild.commands.options import as_json, print_json, verbose
from specbuild.commands.remote import addressed, sampling, server_errors
from specbuild.errors import ServerError

if TYPE_CHECKING:
    from specclient.bench import Comparison, Settings


@click.group()
def bench() -> None:
    """Measure the running server.

    \b
    Example:
      specbuild bench compare --request-count 20 --max-tokens 128
    """


@bench.command()
@addressed
@sampling
@click.option(
    "--concurrency", type=click.IntRange(1, 4096), default=1, show_default=True, help="Requests at a time."
)
@click.option(
    "--request-count",
    type=click.IntRange(min=1),
    help="Prompts; each is sent with and without speculation.  [default: 20, or 8 x concurrency]",
)
@click.option(
    "--warmup-request-count",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Prompts sent before, which are not measured.",
)
@click.option(
    "--random-seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the prompts' order, of sampling and of the bootstrap.",
)
@click.option(
    "--artifact-dir",
    type=click.Path(path_type=Path),
    default=Path("build/bench"),
    show_default=True,
    help="Folder for the JSON report.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The report's file, in its place.")
@as_json
@verbose
def compare(
    *,
    url: str,
    model: str,
    fields: dict[str, Any],
    concurrency: int,
    request_count: int | None,
    warmup_request_count: int,
    random_seed: int,
    artifact_dir: Path,
    output: Path | None,
    as_json: bool,
) -> None:
    """Send the same prompts with and without speculation, alternating; report the speed-up.

    Greedy unless --temperature, --top-k or --top-p is given; then both runs of a prompt must give the
    same tokens. The report is saved as JSON, also when the run is interrupted ("complete": false).

    \b
    Example:
      specbuild bench compare --request-count 20 --max-tokens 128
      specbuild bench compare --concurrency 8 --temperature 0.8 --output compare.json
    """
    from rich.console import Console

    from specclient import GenerationParameters
    from specclient.bench import Settings, document, render

    with server_errors():
        settings = Settings(
            url=url,
            model=model,
            concurrency=concurrency,
            request_count=request_count or max(20, 8 * concurrency),
            warmup_request_count=warmup_request_count,
            seed=random_seed,
            parameters=GenerationParameters(**fields),
        )
    comparison = measure(settings)
    figures = document(comparison)
    path = output or artifact_dir / f"compare-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.json"
    save(path, figures)
    if as_json:
        print_json(figures)
    elif comparison.recording.records:
        Console(highlight=False).print(render(figures))
    click.echo(f"report: {path}", err=True)
    raise_failure(comparison)


def measure(settings: Settings) -> Comparison:
    """The comparison, whole or cut short; the progress line says which."""
    from specclient.bench import compare as run

    outcome: list[Comparison] = []
    try:
        with progress.step("bench compare") as report:
            outcome.append(run(settings, lambda state: report(f"{state.phase} {state.done}/{state.total}")))
            raise_failure(outcome[0])
    except (ServerError, KeyboardInterrupt):
        if not outcome:  # before anything was measured
            raise
    return outcome[0]


def save(path: Path, figures: dict[str, Any]) -> None:
    try:
        artifacts.write_atomic(path, (json.dumps(figures, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise ServerError(
            f"cannot write the report {path}: {error.strerror}", remedy="Name another --output."
        ) from error


def raise_failure(comparison: Comparison) -> None:
    """End as the run ended: 130 for an interrupt, 1 for an error of the server."""
    with server_errors():
        if comparison.failure is not None:
            raise comparison.failure
