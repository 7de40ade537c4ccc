# SPDX-License-Identifier: Apache-2.0
"""``specbuild check``: every reason for or against a pair, before any build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from specbuild import pairing
from specbuild.checkpoint import Examination
from specbuild.commands.options import as_json, configured, print_json, verbose
from specbuild.config import Config, Model
from specbuild.pairing.codes import SEVERITIES

_STYLES = {"error": ("✗", "red"), "warning": ("!", "yellow"), "info": ("·", "cyan")}


@click.command()
@configured
@verbose
@as_json
def check(settings: Config, as_json: bool) -> int:
    """Check the pair and the settings before any build. Loads no weights and runs no model code.

    Lists every finding with its code, reason and remedy; docs/findings.md explains the codes. A hub id
    that is not in the local Hugging Face cache is downloaded first. Exits with 1 when the pair cannot work.

    \b
    Example:
      specbuild check --config configs/demo.yaml
    """
    report = pairing.inspect(settings)
    if as_json:
        print_json(document(report, settings))
    else:
        Console(highlight=False).print(render(report, settings))
    return 0 if report.ok else 1


def document(report: pairing.PairReport, settings: Config) -> dict[str, Any]:
    """The report as JSON types; facts that could not be read are null."""
    return {
        "ok": report.ok,
        "target": summary(settings.target, report.target, settings),
        "draft": summary(settings.draft, report.draft, settings),
        "findings": [asdict(finding) for finding in report.findings],
    }


def summary(options: Model, model: Examination, settings: Config) -> dict[str, Any]:
    """The facts of one model that matter for a deployment."""
    config, weights = model.config, model.weights
    return {
        "checkpoint": options.checkpoint,
        "folder": str(model.folder) if model.folder else None,
        "architecture": config.architecture if config else None,
        "parameters": weights.parameters if weights else None,
        "dtype": model.dtype,
        "quantization": config.quantization if config else None,
        "vocab_size": config.vocab_size if config else None,
        "context_length": config.context_length if config else None,
        "bytes": weights.nbytes if weights else None,
        "kv_bytes_per_token": config.kv_bytes_per_token(_kv_element_bytes(options, model, settings))
        if config
        else None,
    }


def _kv_element_bytes(options: Model, model: Examination, settings: Config) -> int:
    """Bytes of one cached number: that of the cache's type, which by default is the model's."""
    if settings.runtime != "torch" and settings.kv_cache.dtype != "auto":
        return 1
    return 4 if (model.dtype if options.dtype == "auto" else options.dtype) == "float32" else 2


def render(report: pairing.PairReport, settings: Config) -> RenderableType:
    """The report for a terminal of any width; text from checkpoints is never read as markup."""
    parts: list[RenderableType] = [_models(document(report, settings))]
    for severity in SEVERITIES:
        chosen = [finding for finding in report.findings if finding.severity == severity]
        if chosen:
            plural = "" if len(chosen) == 1 else "s"
            parts.append(Text(f"\n{len(chosen)} {severity}{plural}", style=f"bold {_STYLES[severity][1]}"))
            parts += [_finding(finding) for finding in chosen]
    verdict = ("the pair can work", "green") if report.ok else ("the pair cannot work", "red")
    return Group(*parts, Text("\n" + verdict[0], style=f"bold {verdict[1]}"))


def _models(facts: dict[str, Any]) -> Table:
    """One row per model, in short words that fit 80 columns."""
    table = Table.grid(padding=(0, 2))
    for name in ("target", "draft"):
        model = facts[name]
        if model["architecture"] is None:
            words = ["could not be read"]
        else:
            words = [
                model["architecture"],
                _count(model["parameters"]) + " parameters",
                model["dtype"] or "?",
                f"vocabulary {model['vocab_size']:,}",
                f"context {model['context_length']:,}",
                _size(model["bytes"]) + " on disk",
                _size(model["kv_bytes_per_token"]) + " KV per token",
            ]
        title = Text(model["checkpoint"], overflow="fold")
        table.add_row(Text(name, style="bold"), Group(title, Text(", ".join(words), style="dim")))
    return table


def _finding(finding: pairing.Finding) -> RenderableType:
    mark, style = _STYLES[finding.severity]
    head = Text.assemble((mark, style), " ", (finding.code, "bold"), (f"  {finding.subject}", "dim"))
    fix = Text.assemble(("fix: ", "green"), finding.remedy, overflow="fold")
    return Group(head, Padding(Group(Text(finding.reason, overflow="fold"), fix), (0, 0, 0, 4), expand=False))


def _count(number: int | None) -> str:
    """202 M, 8.03 B (billion); ``?`` when unknown."""
    return _scaled(number, ("", " K", " M", " B", " T"))


def _size(number: int | None) -> str:
    """405 MB, 16.1 GB; ``?`` when unknown."""
    return _scaled(number, (" B", " KB", " MB", " GB", " TB"))


def _scaled(number: int | None, units: Sequence[str]) -> str:
    if number is None:
        return "?"
    power = 0
    while number >= 0.9995 * 1000 ** (power + 1) and power < len(units) - 1:
        power += 1  # from where three digits would round up to the next unit
    return f"{number / 1000**power:.3g}{units[power]}"
