# SPDX-License-Identifier: Apache-2.0
"""``specbuild init``: a preset as the start of a configuration."""

from __future__ import annotations

from pathlib import Path

import click

from specbuild import resources
from specbuild.errors import ConfigError
from specbuild.suggest import did_you_mean


@click.command()
@click.argument("preset", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here instead of stdout.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(preset: str | None, output: Path | None, force: bool) -> None:
    """Write a commented configuration from PRESET; without one, list the presets.

    \b
    Example:
      specbuild init demo --output pair.yaml
    """
    presets = {path.stem: path for path in sorted(resources.folder("configs").glob("*.yaml"))}
    if preset is None:
        for name, path in presets.items():
            click.echo(f"{name:20} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return
    if preset not in presets:
        raise ConfigError(
            f"there is no preset {preset!r}{did_you_mean(preset, presets)}",
            remedy=f"Take one of: {', '.join(presets)}.",
        )
    text = presets[preset].read_text(encoding="utf-8")
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{output} exists", remedy="Name another file, or pass --force.") from None
    except OSError as error:
        raise ConfigError(
            f"cannot write {output}: {error.strerror}", remedy="Name a writable file."
        ) from None
    click.echo(f"wrote {output}", err=True)
