# SPDX-License-Identifier: Apache-2.0
"""Runs a benchmark with its progress, saves and shows the report, and ends as the run ended."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specbuild import artifacts, progress
from specbuild.commands.bench import forms
from specbuild.commands.options import print_json
from specbuild.commands.remote import server_errors
from specbuild.errors import ServerError

if TYPE_CHECKING:
    from specclient.bench import Outcome, Progress
    from specclient.bench.measure import OnProgress

PERIOD_S = 0.1
"""Between two changes of the progress line."""


def finish(outcome: Outcome, *, output: Path | None, artifact_dir: Path, as_json: bool) -> None:
    """Save and show the report, then raise what ended the run early, if anything did."""
    from rich.console import Console

    from specclient.bench import document, render

    report = document(outcome)
    path = output or artifact_dir / f"{outcome.kind}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.json"
    try:
        save(path, report)
    finally:  # what was measured is shown even when it cannot be saved
        if as_json:
            print_json(report)
        elif any(run.samples for run in outcome.runs):
            Console(highlight=False).print(render(report))
    click.echo(f"report: {path}, {forms.beside(path, 'html')}", err=True)
    raise_failure(outcome)


def measured(title: str, work: Callable[[OnProgress], Outcome]) -> Outcome:
    """The outcome, whole or cut short; the progress line says which."""
    outcomes: list[Outcome] = []
    try:
        with progress.step(title) as report:
            outcomes.append(work(_shown(report)))
            raise_failure(outcomes[0])
    except (ServerError, KeyboardInterrupt):
        if not outcomes:  # before anything was measured
            raise
    return outcomes[0]


def _shown(report: progress.Report) -> OnProgress:
    """Shows how far the run is, now and then only: it happens between two requests."""
    shown_at = -math.inf

    def on_progress(state: Progress) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at < PERIOD_S and state.done != state.total:
            return
        shown_at = now
        of_all = f"/{state.total}" if state.total else ""
        report(f"{state.load}: {state.phase} {state.done}{of_all}")

    return on_progress


def save(path: Path, report: Mapping[str, Any]) -> None:
    """Write the document as JSON, its page and its CSV beside it; a reader never sees half of one."""
    try:
        artifacts.write_atomic(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise ServerError(
            f"cannot write the report {path}: {error.strerror}", remedy="Name another --output."
        ) from error
    for form in forms.FORMS:
        forms.write(path, report, form)


def raise_failure(outcome: Outcome) -> None:
    """End as the run ended: 130 for an interrupt, 1 for an error of the server."""
    with server_errors():
        if outcome.failure is not None:
            raise outcome.failure
