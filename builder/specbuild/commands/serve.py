# SPDX-License-Identifier: Apache-2.0
"""``specbuild serve``: the deployment, answering."""

from __future__ import annotations

import contextlib
import os
import shlex

import click

from specbuild import server
from specbuild.commands.options import configured, verbose
from specbuild.config import Config
from specbuild.progress import step


@click.command()
@configured
@click.option("--dry-run", is_flag=True, help="Print the tritonserver command and stop.")
@verbose
def serve(settings: Config, dry_run: bool) -> None:
    """Start Triton on the repository and stay until Ctrl-C; a second Ctrl-C does not wait for requests.

    \b
    Example:
      specbuild serve --config configs/demo.yaml

    The addresses are printed when an inference has been answered, not before. When the server ends by
    itself, the last lines of its log are shown and the exit code is 1.
    """
    if dry_run:
        click.echo(shlex.join(server.argv(settings, server.find(settings.serving.tritonserver, os.environ))))
        return
    with contextlib.ExitStack() as stack:
        with step("starting Triton"):
            running = stack.enter_context(server.running(settings))
        click.echo(f"gRPC     {running.grpc}")
        click.echo(f"HTTP     http://{running.http}")
        click.echo(f"metrics  http://{running.metrics}/metrics")
        click.echo(f"log      {running.log}")
        click.echo("Ctrl-C stops the server.", err=True)
        try:
            running.wait()
        except KeyboardInterrupt:
            click.echo("stopping: running requests may finish", err=True)
