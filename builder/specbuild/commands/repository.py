# SPDX-License-Identifier: Apache-2.0
"""``specbuild repository``: what Triton serves, written or verified."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from specbuild import config
from specbuild import repository as repositories
from specbuild.commands.options import as_json, print_json, verbose
from specbuild.progress import step


@click.command()
@click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), help="Write for this YAML file."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, as a.b=value.")
@click.option("--verify", "folder", type=click.Path(path_type=Path), help="Check this repository instead.")
@verbose
@as_json
def repository(
    config_file: Path | None, overrides: tuple[str, ...], folder: Path | None, as_json: bool
) -> int:
    """Write the Triton model repository, or verify one.

    \b
    Example:
      specbuild repository --config configs/demo.yaml
      specbuild repository --verify build/demo/repository

    --verify lists everything that stops Triton or that Triton accepts and should not (an empty config.pbtxt,
    a missing version folder), each with a code and a remedy, and exits with 1 when there is any. It also
    reads repositories made from NVIDIA's templates, and compares their models with the engines they name.
    """
    if (config_file is None) == (folder is None):
        raise click.UsageError("pass either --config FILE or --verify DIR")
    if folder is not None:
        return _verify(folder, as_json)
    assert config_file is not None
    settings = config.load(config_file, overrides)
    with step("repository") as report:
        written = repositories.write(settings)
        report("written" if written else "unchanged")
    if as_json:
        print_json({"repository": str(settings.repository_dir), "written": written})
    else:
        click.echo(settings.repository_dir)
    return 0


def _verify(folder: Path, as_json: bool) -> int:
    findings = repositories.verify(folder)
    if as_json:
        print_json({"ok": not findings, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{click.style(finding.code, bold=True)}  {finding.subject}: {finding.reason}")
            click.echo(f"    {click.style('fix:', fg='green')} {finding.remedy}")
        plural = "" if len(findings) == 1 else "s"
        click.echo(f"{len(findings)} finding{plural}" if findings else f"{folder} is in order")
    return 1 if findings else 0
