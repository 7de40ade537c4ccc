# SPDX-License-Identifier: Apache-2.0
"""``specbuild migrate``: from TensorRT engines to the LLM API."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from specbuild import artifacts, config, migration
from specbuild.commands.options import as_json, print_json
from specbuild.errors import ConfigError
from specbuild.migration import KINDS, Migration, Note
from specbuild.migration.repository import Hints

_STYLES = {"carried": "green", "changed": "yellow", "lost": "red"}


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "target_engine",
    type=click.Path(path_type=Path),
    help="The target's engine folder, if it is elsewhere here.",
)
@click.option("--draft-engine", type=click.Path(path_type=Path), help="The draft's engine folder, likewise.")
@click.option("--target", metavar="CHECKPOINT", help="Hub id or folder that the target was built from.")
@click.option("--draft", metavar="CHECKPOINT", help="Hub id or folder that the draft was built from.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the YAML here, not to stdout.")
@as_json
def migrate(source: Path, output: Path | None, as_json: bool, **hints: Any) -> None:
    """Write the configuration of runtime llmapi that replaces SOURCE, and say what becomes of each setting.

    SOURCE is a configuration of runtime tensorrt_llm, or a Triton model repository: specbuild's or NVIDIA's
    inflight_batcher_llm layout. What a repository does not tell is read from the engines' config.json.

    \b
    Examples:
      specbuild migrate configs/llama8b.yaml --output llama8b-llmapi.yaml
      specbuild migrate /models/repository --engine /engines/70b \\
          --target meta-llama/Llama-3.1-70B-Instruct --draft meta-llama/Llama-3.2-1B-Instruct

    SOURCE is not changed. The list goes to stderr when the YAML goes to stdout.
    """
    result = _migrate(source, Hints(**hints))
    text = _yaml(result, source)
    if output is not None:
        _write(output, text)
    if as_json:
        print_json(_document(result))
        return
    if output is None:
        click.echo(text, nl=False)
    Console(highlight=False, stderr=output is None).print(_render(result))
    if output is not None:
        click.echo(f"wrote {output}", err=True)


def _migrate(source: Path, hints: Hints) -> Migration:
    if not source.is_dir():
        if hints != Hints():
            raise ConfigError(
                "--engine, --draft-engine, --target and --draft are for a model repository",
                remedy=f"Leave them out: {source} names its checkpoints.",
            )
        return migration.translate(config.load(source))
    recovered = migration.recover(source, hints)
    settings = config.validate(recovered.document, source=str(source))
    return migration.translate(settings, before=recovered.notes)


def _yaml(result: Migration, source: Path) -> str:
    head = f"# Draft-target speculation by TensorRT-LLM's LLM API, migrated from {source}.\n"
    return head + yaml.safe_dump(dict(result.document), sort_keys=False, allow_unicode=True)


def _write(output: Path, text: str) -> None:
    if output.exists():
        raise ConfigError(f"{output} exists", remedy="Name another file, or move it away.")
    try:
        artifacts.write_atomic(output, text.encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write {output}: {error.strerror}", remedy="Name a writable file."
        ) from None


def _document(result: Migration) -> dict[str, Any]:
    listed: dict[str, Any] = {
        kind: [
            {key: value for key, value in asdict(note).items() if key != "kind"}
            for note in result.notes
            if note.kind == kind
        ]
        for kind in KINDS
    }
    return {"config": dict(result.document)} | listed


def _render(result: Migration) -> RenderableType:
    """The three lists, for a terminal of any width; only what is not simply carried has a reason."""
    parts: list[RenderableType] = []
    for kind in KINDS:
        notes = [note for note in result.notes if note.kind == kind]
        if notes:
            parts.append(Text(f"\n{len(notes)} {kind}", style=f"bold {_STYLES[kind]}"))
            parts += [_carried(notes)] if kind == "carried" else map(_explained, notes)
    return Group(*parts)


def _carried(notes: list[Note]) -> Table:
    table = Table.grid(padding=(0, 2))
    for note in notes:
        table.add_row(Text(f"  {note.setting}"), Text(note.value, overflow="fold"))
    return table


def _explained(note: Note) -> RenderableType:
    head = Text.assemble((note.setting, "bold"), f": {note.value}", overflow="fold")
    body = Padding(Text(note.reason, style="dim"), (0, 0, 0, 2), expand=False)
    return Padding(Group(head, body), (0, 0, 0, 2), expand=False)
