# SPDX-License-Identifier: Apache-2.0
"""``specbuild serve``: the deployment, answering."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click

from specbuild import repository, server
from specbuild.commands.options import configured, verbose
from specbuild.config import Config
from specbuild.engines import gpus
from specbuild.errors import ConfigError
from specbuild.progress import step

API_KEY_VARIABLE = "SPECBUILD_OPENAI_API_KEY"  # the variable's name

_LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)


@click.command()
@configured
@click.option("--dry-run", is_flag=True, help="Print the command, with its variables, and stop.")
@click.option(
    "--openai-port", type=click.IntRange(0, 65535), help="Also serve OpenAI's API here; 0 takes a free port."
)
@click.option("--openai-host", default=_LOOPBACK, show_default=True, help="Listen address of OpenAI's API.")
@click.option(
    "--openai-api-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"A file with the key that clients must send.  [default: the variable {API_KEY_VARIABLE}, if set]",
)
@verbose
def serve(
    settings: Config,
    dry_run: bool,
    openai_port: int | None,
    openai_host: str,
    openai_api_key_file: Path | None,
) -> int:
    """Start Triton on the repository and stay until Ctrl-C; a second Ctrl-C does not wait for requests.

    \b
    Example:
      specbuild serve --config configs/demo.yaml
      specbuild serve --config configs/demo.yaml --openai-port 8080

    TensorRT engines are run through mpirun, in the mode that tensorrt_llm.launch names; GPUs and MPI ranks
    are those of the repository. Where this machine cannot run them, --dry-run prints the command for
    NVIDIA's image.

    The repository is checked first, as by `specbuild repository --verify`; what is found stops the command, a
    file that was changed by hand is only warned of.

    The addresses are printed when an inference has been answered, not before. When the server ends by
    itself, the last lines of its log are shown and the exit code is 1.
    """
    if dry_run:
        click.echo(server.preview(settings, os.environ, gpu_count=len(gpus.detect())))
        return 0
    if openai_port is None and (openai_api_key_file is not None or openai_host != _LOOPBACK):
        raise click.UsageError("--openai-host and --openai-api-key-file need --openai-port")
    interrupts: list[int] = []
    with contextlib.ExitStack() as stack:
        # Checked before Triton takes its time to start.
        key = _api_key(openai_api_key_file) if openai_port is not None else None
        bound = None if openai_port is None else _bind(stack, openai_host, openai_port, key)
        repository.require(settings.repository_dir)
        with step("starting Triton"):
            running = stack.enter_context(server.running(settings))
        click.echo(f"gRPC     {running.grpc}")
        click.echo(f"HTTP     http://{running.http}")
        click.echo(f"metrics  http://{running.metrics}/metrics")
        hurry = [running.kill]
        if bound is not None:
            hurry.append(_start_front(stack, settings, running, bound, key))
        click.echo(f"log      {running.log}")
        click.echo("Ctrl-C stops the server.", err=True)
        try:
            running.wait()
        except KeyboardInterrupt:
            interrupts = _hurry_on_interrupt(hurry)
            click.echo("stopping: running requests may finish", err=True)
    return 130 if interrupts else 0


def _bind(stack: contextlib.ExitStack, host: str, port: int, key: str | None) -> socket.socket:
    from specbuild import openai_front

    bound = stack.enter_context(openai_front.bind(host, port))
    if key is None and not ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback:
        log.warning("--openai-host %s: anybody who reaches it may generate; set %s", host, API_KEY_VARIABLE)
    return bound


def _start_front(
    stack: contextlib.ExitStack,
    settings: Config,
    running: server.RunningServer,
    bound: socket.socket,
    key: str | None,
) -> Callable[[], None]:
    """Start the front of a server that answers; what ends it at once."""
    from specbuild import openai_front

    deployment = openai_front.Deployment.of(settings, running.grpc, api_key=key)
    front = stack.enter_context(openai_front.running(deployment, bound))
    click.echo(f"OpenAI   {front.url}  (model {deployment.name})")
    return front.kill


def _api_key(file: Path | None) -> str | None:
    """The key of ``file``, or else of the environment; None without either. Raises ConfigError."""
    if file is None:
        return os.environ.get(API_KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}", remedy="Name a readable text file.") from None
    if not key:
        raise ConfigError(f"{file} holds no key", remedy="Write the key into it.")
    return key


def _hurry_on_interrupt(actions: list[Callable[[], None]]) -> list[int]:
    """From now on an interrupt does not raise, but ends all at once; the list gets each of them."""
    interrupts: list[int] = []

    def hurry(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)
        for action in actions:
            action()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hurry)
    return interrupts
