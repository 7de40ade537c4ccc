# SPDX-License-Identifier: Apache-2.0
"""The options that say what a benchmark sends, for every verb that sends it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from specbuild.errors import ConfigError

if TYPE_CHECKING:
    from specclient.bench.workload import Workload, WorkloadOptions

Command = TypeVar("Command", bound=Callable[..., Any])

NAMES = (
    "prompt_kinds",
    "input_file",
    "trace_file",
    "trace_unit",
    "tokenizer",
    "isl",
    "isl_stddev",
    "osl",
    "osl_stddev",
    "random_tokens",
    "num_prompts",
    "chat",
)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
TOKENS = click.IntRange(1, 2**24)


def workload_options(command: Command) -> Command:
    """What is sent, and ``--random-seed``; the command receives ``workload`` and ``random_seed``.

    Text of the package unless a file is named. Raises ConfigError for what contradicts itself or cannot be
    read.
    """

    @click.option(
        "--prompt-kind",
        "prompt_kinds",
        multiple=True,
        type=click.Choice(["code", "chat", "summarise", "structured"]),
        help="Only this kind of the bundled prompts; repeatable.",
    )
    @click.option(
        "--input-file",
        type=FILE,
        help="Prompts: JSON Lines with prompt or messages, or ShareGPT.  [default: bundled text]",
    )
    @click.option(
        "--trace-file",
        type=FILE,
        help="Replay: JSON Lines with timestamp, and input_length (Mooncake) or prompt.",
    )
    @click.option(
        "--trace-unit",
        type=click.Choice(["ms", "s"]),
        default="ms",
        show_default=True,
        help="Of the trace's timestamps.",
    )
    @click.option(
        "--tokenizer",
        metavar="FOLDER|FILE|ID",
        help="The target's tokenizer: lengths are in its tokens.",
    )
    @click.option("--isl", type=TOKENS, help="Mean input length in tokens, cut from real text.")
    @click.option("--isl-stddev", type=click.FloatRange(min=0), default=0, help="Its standard deviation.")
    @click.option("--osl", type=TOKENS, help="Mean output length; goes before --max-tokens.")
    @click.option("--osl-stddev", type=click.FloatRange(min=0), default=0, help="Its standard deviation.")
    @click.option(
        "--random-tokens",
        is_flag=True,
        help="Random tokens of length --isl. Distorts acceptance: not for speed-ups.",
    )
    @click.option(
        "--num-prompts",
        type=click.IntRange(min=1),
        help="Distinct prompts to make with --isl; the first ones of any other source.",
    )
    @click.option(
        "--chat", is_flag=True, help="Send texts as a user's message; to Triton it takes --chat-template."
    )
    @click.option(
        "--random-seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Of the prompts, their order and lengths, sampling, arrivals and bootstrap.",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, random_seed: int, **kwargs: Any) -> Any:
        fields = {name: kwargs.pop(name) for name in NAMES}
        workload = _workload(fields, seed=random_seed)
        return command(*args, workload=workload, random_seed=random_seed, **kwargs)

    return wrapper  # type: ignore[return-value]


def _workload(fields: dict[str, Any], *, seed: int) -> Workload:
    from specclient.bench.workload import WorkloadError, workload_from

    try:
        return workload_from(_options(fields), seed=seed)
    except WorkloadError as error:
        raise ConfigError(error.message, remedy=error.remedy) from error


def _options(fields: dict[str, Any]) -> WorkloadOptions:
    from specclient.bench.workload import Length, WorkloadError, WorkloadOptions

    for name in ("isl", "osl"):
        mean, stddev = fields[name], fields.pop(f"{name}_stddev")
        if mean is None and stddev:
            raise WorkloadError(f"--{name}-stddev has no mean", remedy=f"Give --{name} too.")
        fields[name] = None if mean is None else Length(mean, stddev)
    return WorkloadOptions(kinds=fields.pop("prompt_kinds"), **fields)
