# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from specbuild import config

Command = TypeVar("Command", bound=Callable[..., Any])


def configured(command: Command) -> Command:
    """``--config FILE`` and ``--set``; the command receives them as ``settings: config.Config``."""

    @click.option(
        "-c",
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        required=True,
        help="The YAML file of the deployment.",
    )
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a key, as a.b=value; repeatable.",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, config_file: Path, overrides: tuple[str, ...], **kwargs: Any) -> Any:
        return command(*args, settings=config.load(config_file, overrides), **kwargs)

    return wrapper  # type: ignore[return-value]


def verbose(command: Command) -> Command:
    """``-v``: log to stderr what is done; twice for details. Nothing is passed on."""

    @click.option("-v", "--verbose", count=True, help="Log progress to stderr; -vv for details.")
    @functools.wraps(command)
    def wrapper(*args: Any, verbose: int, **kwargs: Any) -> Any:
        level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        for package in ("specbuild", "specclient"):
            logging.getLogger(package).setLevel(level)
        return command(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def print_json(document: Any) -> None:
    """``document`` on stdout; undefined numbers must be None, never NaN."""
    click.echo(json.dumps(document, indent=2, allow_nan=False, default=str))
