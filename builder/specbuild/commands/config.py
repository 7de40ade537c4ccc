# SPDX-License-Identifier: Apache-2.0
"""``specbuild config``: what is in force, and what may be written."""

from __future__ import annotations

import click
import yaml

from specbuild import config as configuration
from specbuild.commands.options import as_json, configured, print_json


@click.group()
def config() -> None:
    """Show a configuration with its defaults, or the schema of the file.

    \b
    Example:
      specbuild config show --config configs/demo.yaml --set speculation.draft_length=4
    """


@config.command()
@configured
@as_json
def show(settings: configuration.Config, as_json: bool) -> None:
    """Print the configuration in force: the file, the overrides and every default.

    \b
    Example:
      specbuild config show --config configs/demo.yaml
    """
    document = settings.model_dump(mode="json")
    if as_json:
        print_json(document)
    else:
        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the file, for editors.

    \b
    Example:
      specbuild config schema > specbuild.schema.json
    """
    print_json(configuration.schema())
