# SPDX-License-Identifier: Apache-2.0
"""``specbuild demo``: the whole chain on a synthetic pair, from nothing to the comparison."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specbuild import config, pairing, progress, repository, resources, server, synthetic
from specbuild.commands.bench import saving
from specbuild.commands.options import as_json, print_json, verbose
from specbuild.commands.remote import server_errors
from specbuild.config import Config
from specbuild.engines import torch as engines

if TYPE_CHECKING:
    from specbuild.server import RunningServer
    from specclient.bench import Document, Outcome

PROMPT = "def read_config(path):\n"


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("build/demo"),
    show_default=True,
    help="Folder for everything that is built; a second run reuses it.",
)
@click.option(
    "--request-count",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="Prompts; each is sent with and without speculation.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=2, max=1024),
    default=128,
    show_default=True,
    help="Tokens of each answer.",
)
@as_json
@verbose
def demo(output: Path, request_count: int, max_tokens: int, as_json: bool) -> None:
    """Run the whole chain here and now: pair, check, engines, repository, Triton, client, comparison.

    Needs no GPU and downloads no model: the pair is synthetic, with real cost and an acceptance known in
    advance. The report is OUTPUT/report.json.

    \b
    Example:
      specbuild demo
      specbuild demo --request-count 4 --max-tokens 64
    """
    settings = _settings(output)
    acceptance = _build(settings, output)
    with contextlib.ExitStack() as stack:
        with progress.step("starting Triton") as report:
            running = stack.enter_context(server.running(settings))
            report(f"gRPC {running.grpc}")
        _generate(running, max_tokens)
        comparison = _compare(running, request_count, max_tokens)
    document = _document(comparison, acceptance)
    path = output / "report.json"
    saving.save(path, document)
    if as_json:
        print_json(document)
    else:
        _show(comparison, document, path)
    saving.raise_failure(comparison)


def _settings(output: Path) -> Config:
    """The preset, built in ``output`` and served on ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    document = config.load(resources.folder("configs") / "demo.yaml").model_dump(mode="json")
    document["output"] = str(output)
    for role in ("target", "draft"):
        document[role]["checkpoint"] = str(output / "pair" / role)
    document["serving"].update(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
    return config.validate(document, source="demo")


def _build(settings: Config, output: Path) -> dict[str, Any]:
    """Everything up to the repository; the pair's acceptance in closed form."""
    with progress.step("synthetic pair") as report:
        made = synthetic.synthesize(output / "pair", synthetic.Recipe())
        report("unchanged" if made.reused else "written")
    with progress.step("check") as report:
        pairing.require(settings)
        report("the draft fits the target")
    with progress.step("engines") as report:
        engines.build(settings, report)
    with progress.step("repository") as report:
        report("written" if repository.write(settings) else "unchanged")
    return dict(made.acceptance)


def _generate(running: RunningServer, max_tokens: int) -> None:
    """One answer as a person sees it: streamed, on stderr, since stdout is the result's."""
    from specclient import AsyncSpecClient
    from specclient.interrupts import Interrupts

    interrupts = Interrupts()

    async def stream() -> None:
        async with (
            AsyncSpecClient(running.grpc) as client,
            client.stream(PROMPT, max_tokens=max_tokens, temperature=1.0, seed=0) as chunks,
        ):
            async for chunk in chunks:
                with interrupts.writing():
                    click.echo(chunk.text, err=True, nl=False)

    click.echo(click.style(PROMPT, bold=True), err=True, nl=False)
    with server_errors():
        interrupts.run(stream())
    click.echo("\n", err=True)


def _compare(running: RunningServer, request_count: int, max_tokens: int) -> Outcome:
    from specclient import GenerationParameters
    from specclient.bench import Settings, compare

    settings = Settings(
        url=running.grpc,
        request_count=request_count,
        parameters=GenerationParameters(max_tokens=max_tokens, temperature=0.0),
    )
    return saving.measured("bench compare", lambda progress: compare(settings, progress))


def _document(comparison: Outcome, acceptance: dict[str, Any]) -> Document:
    from specclient.bench import document

    report = document(comparison)
    report["pair"] = acceptance
    return report


def _show(comparison: Outcome, report: Document, path: Path) -> None:
    from rich.console import Console

    from specclient.bench import render

    if any(run.samples for run in comparison.runs):
        Console(highlight=False).print(render(report))
    click.echo(f"Synthetic pair, run by PyTorch on this machine. Report: {path}", err=True)
