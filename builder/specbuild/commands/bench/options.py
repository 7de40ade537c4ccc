# SPDX-License-Identifier: Apache-2.0
"""Options that the verbs of ``specbuild bench`` share, and what they are turned into."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from specbuild.commands.options import as_json, verbose
from specbuild.commands.remote import Server
from specbuild.commands.workload_options import workload_options
from specbuild.errors import ConfigError

if TYPE_CHECKING:
    from specclient.bench.document import Arrival
    from specclient.bench.load import Load
    from specclient.bench.workload import Workload

Command = TypeVar("Command", bound=Callable[..., Any])

SECONDS = click.FloatRange(min=0, min_open=True)


def common(verb: str) -> Callable[[Command], Command]:
    """Warm-up, workload, goodput, price and where the report goes; ``verb`` names its file."""

    def decorate(command: Command) -> Command:
        for option in reversed(
            (
                workload_options,
                click.option(
                    "--warmup-request-count",
                    type=click.IntRange(min=0),
                    default=2,
                    show_default=True,
                    help="Requests sent before each measurement and not measured.",
                ),
                click.option(
                    "--goodput",
                    multiple=True,
                    metavar="METRIC:MS",
                    help="A limit, as ttft:200, tpot:20 or latency:5000; repeatable.",
                ),
                click.option(
                    "--gpu-hour-price",
                    type=click.FloatRange(min=0),
                    help="Price per hour of all GPUs that serve: gives the cost per million output tokens.",
                ),
                click.option(
                    "--artifact-dir",
                    type=click.Path(path_type=Path),
                    default=Path("build/bench"),
                    show_default=True,
                    help="Folder for the report.",
                ),
                click.option(
                    "-o",
                    "--output",
                    type=click.Path(path_type=Path),
                    help=f"The report's file.  [{verb}-TIME.json]",
                ),
                as_json,
                verbose,
            )
        ):
            command = option(command)
        return command

    return decorate


def loads(command: Command) -> Command:
    """How requests arrive and for how long; the command receives ``load`` as a ``LoadOptions``."""

    @click.option(
        "--concurrency",
        metavar="N|N,N,..|A:B[:STEP]",
        help="Users of a closed loop: 4, or 1,2,4,8, or 1:32:x2.",
    )
    @click.option(
        "--request-rate", metavar="R|R,R,..|A:B[:STEP]", help="Requests per second of an open loop, likewise."
    )
    @click.option(
        "--arrival",
        type=click.Choice(["constant", "poisson", "gamma"]),
        default="poisson",
        show_default=True,
        help="Law of the arrivals in an open loop.",
    )
    @click.option(
        "--burstiness",
        type=SECONDS,
        default=1.0,
        show_default=True,
        help="Shape of the gamma law: 1 is Poisson, less comes in bursts.",
    )
    @click.option(
        "--request-count",
        type=click.IntRange(min=1),
        help="Requests per load point.  [default: 20, or 8 per user]",
    )
    @click.option("--duration", type=SECONDS, help="Seconds per load point, in place of a count.")
    @click.option(
        "-s",
        "--stability-percentage",
        type=SECONDS,
        help="Measure until three intervals agree within this percentage, in place of a count.",
    )
    @click.option(
        "--measurement-interval",
        type=SECONDS,
        default=5.0,
        show_default=True,
        help="Seconds of such an interval.",
    )
    @click.option(
        "--max-trials", type=click.IntRange(min=3), default=10, show_default=True, help="Most intervals."
    )
    @click.option(
        "--ramp",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        help="Seconds over which users start; not measured.",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        fields = {name: kwargs.pop(name) for name in LOAD_NAMES}
        return command(*args, load=LoadOptions(**fields), **kwargs)

    return wrapper  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The options of ``loads``, as they were given."""

    concurrency: str | None
    request_rate: str | None
    arrival: Arrival
    burstiness: float
    request_count: int | None
    duration: float | None
    stability_percentage: float | None
    measurement_interval: float
    max_trials: int
    ramp: float

    def points(self, workload: Workload, default: str) -> tuple[Load, ...]:
        """The load points: rates, concurrencies (``default`` unless given), or a trace's own times."""
        from specclient.bench.load import Rate, Replay, numbers

        if self.concurrency is not None and self.request_rate is not None:
            raise ConfigError(
                "--concurrency is a closed loop and --request-rate an open one", remedy="Give one of them."
            )
        if self.request_rate is not None:
            rates = numbers(self.request_rate)
            return tuple(Rate(rate, self.arrival, self.burstiness) for rate in rates)
        if workload.replayed and self.concurrency is None:
            return (Replay(tuple(prompt.arrival_s or 0.0 for prompt in workload.prompts)),)
        return concurrencies(self.concurrency or default)

    def length(self) -> dict[str, Any]:
        """How long a load point lasts, as fields of Settings."""
        from specclient.bench.settings import Stability

        stability = None
        if self.stability_percentage is not None:
            stability = Stability(
                percentage=self.stability_percentage,
                interval_s=self.measurement_interval,
                trials=self.max_trials,
            )
        return {
            "request_count": self.request_count,
            "duration_s": self.duration,
            "stability": stability,
            "ramp_s": self.ramp,
        }


def concurrencies(text: str) -> tuple[Load, ...]:
    """``1,2,4`` or ``1:32:x2``. Raises ConfigError."""
    from specclient.bench.load import Concurrency, numbers

    values = numbers(text)
    if not all(value == int(value) for value in values):
        raise ConfigError(f"--concurrency {text} is not whole", remedy="Write whole numbers of users.")
    return tuple(Concurrency(int(value)) for value in values)


def server_fields(server: Server) -> dict[str, Any]:
    """Where the server is, as fields of Settings. Raises InvalidRequest and ConfigError."""
    from specclient.address import parse

    if parse(server.url).protocol != "grpc":
        raise ConfigError(
            f"{server.url} is Triton's HTTP address", remedy="Name its gRPC port: the load is sent over gRPC."
        )
    return {field.name: getattr(server, field.name) for field in dataclasses.fields(server)}


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """What the client refuses before anything is sent is wrong usage: exit code 2."""
    from specclient import InvalidRequest

    try:
        yield
    except InvalidRequest as error:
        raise ConfigError(error.message, remedy=error.remedy) from error


LOAD_NAMES = tuple(field.name for field in dataclasses.fields(LoadOptions))
