# SPDX-License-Identifier: Apache-2.0
"""``specbuild engines``: both models, ready to be served."""

from __future__ import annotations

import importlib

import click

from specbuild.commands.options import configured, verbose
from specbuild.config import Config
from specbuild.progress import step


@click.command()
@configured
@verbose
def engines(settings: Config) -> None:
    """Build the engines of the draft and the target; what is unchanged is reused.

    \b
    Example:
      specbuild engines --config configs/demo.yaml

    Everything is written under OUTPUT/engines with a manifest (sha256 of every file), whole or not at all.
    """
    runtime = importlib.import_module(f"specbuild.engines.{settings.runtime}")
    with step("engines") as report:
        runtime.build(settings, report)
    click.echo(settings.engines_dir)
