# SPDX-License-Identifier: Apache-2.0
"""``specbuild engines``: both models, ready to be served."""

from __future__ import annotations

import importlib

import click

from specbuild.commands.options import as_json, configured, print_json, verbose
from specbuild.config import Config
from specbuild.errors import ConfigError
from specbuild.progress import step


@click.command()
@configured
@verbose
@click.option("--dry-run", is_flag=True, help="Print the commands instead of running them.")
@as_json
def engines(settings: Config, dry_run: bool, as_json: bool) -> None:
    """Build the engines of the draft and the target; what is unchanged is reused.

    \b
    Examples:
      specbuild engines --config configs/demo.yaml
      specbuild engines --config configs/llama8b.yaml --dry-run

    Everything is written under OUTPUT/engines with a manifest (sha256 of every file), whole or not at all.
    With --dry-run, --json prints the steps: name, model, argv, env, inputs, outputs and content key.
    """
    runtime = importlib.import_module(f"specbuild.engines.{settings.runtime}")
    if dry_run:
        if not hasattr(runtime, "preview"):
            raise ConfigError(
                f"runtime {settings.runtime} runs no commands to build its engines",
                remedy="Leave --dry-run out; `specbuild check` looks at the pair without building.",
            )
        preview = runtime.preview(settings)
        if as_json:
            print_json(preview.document)
        else:
            click.echo(preview.text)
        return
    with step("engines") as report:
        runtime.build(settings, report)
    if as_json:
        print_json({"engines": {name: str(settings.engines_dir / name) for name in _built(settings)}})
    else:
        click.echo(settings.engines_dir)


def _built(settings: Config) -> list[str]:
    """The folders of this runtime; another one's may lie beside them."""
    models = {"target": settings.target, "draft": settings.draft}
    if settings.runtime != "llmapi":
        return list(models)
    return [*(name for name, model in models.items() if model.quantization), "llmapi"]
