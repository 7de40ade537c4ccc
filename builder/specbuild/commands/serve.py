# SPDX-License-Identifier: Apache-2.0
"""``specbuild serve``: the deployment, answering."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

import click

from specbuild import server
from specbuild.commands.options import configured, verbose
from specbuild.config import Config
from specbuild.engines import gpus
from specbuild.progress import step


@click.command()
@configured
@click.option("--dry-run", is_flag=True, help="Print the command, with its variables, and stop.")
@verbose
def serve(settings: Config, dry_run: bool) -> int:
    """Start Triton on the repository and stay until Ctrl-C; a second Ctrl-C does not wait for requests.

    \b
    Example:
      specbuild serve --config configs/demo.yaml

    TensorRT engines are run through mpirun, in the mode that tensorrt_llm.launch names; GPUs and MPI ranks
    are those of the repository. Where this machine cannot run them, --dry-run prints the command for
    NVIDIA's image.

    The addresses are printed when an inference has been answered, not before. When the server ends by
    itself, the last lines of its log are shown and the exit code is 1.
    """
    if dry_run:
        click.echo(server.preview(settings, os.environ, gpu_count=len(gpus.detect())))
        return 0
    interrupts: list[int] = []
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
            interrupts = _hurry_on_interrupt(running)
            click.echo("stopping: running requests may finish", err=True)
    return 130 if interrupts else 0


def _hurry_on_interrupt(running: server.RunningServer) -> list[int]:
    """From now on an interrupt does not raise, but ends the server at once; the list gets each of them."""
    interrupts: list[int] = []

    def hurry(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)
        running.kill()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hurry)
    return interrupts
