# SPDX-License-Identifier: Apache-2.0
"""``specbuild bench report``."""

from __future__ import annotations

from pathlib import Path

import click

from specbuild.commands.bench import forms
from specbuild.commands.options import verbose
from specbuild.errors import ConfigError


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", "form", flag_value="html", help="The page alone.")
@click.option("--csv", "form", flag_value="csv", help="The CSV alone.")
@verbose
def report(*, file: Path, form: str | None) -> None:
    """Show a saved report again, and write its page and CSV beside it.

    \b
    Example:
      specbuild bench report build/bench/compare.json
      specbuild bench report compare.json --html
    """
    from rich.console import Console

    from specclient.bench import render, saved

    try:
        document = saved.read(file)
    except saved.ReportError as error:
        raise ConfigError(error.message, remedy=error.remedy) from error
    Console(highlight=False).print(render(document))
    for name in forms.FORMS if form is None else (form,):
        click.echo(f"{name}: {forms.write(file, document, name)}", err=True)
