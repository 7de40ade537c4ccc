# SPDX-License-Identifier: Apache-2.0
"""``specbuild doctor``: what this machine has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from specbuild import config
from specbuild import doctor as diagnosis
from specbuild.commands.options import as_json, print_json
from specbuild.config import Config
from specbuild.doctor import Machine, Program, Verdict
from specbuild.engines.gpus import Gpu


@click.command()
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Judge what this configuration needs; its runtime then decides the exit code.",
)
@as_json
def doctor(config_file: Path | None, as_json: bool) -> int:
    """Say what this machine has, and for each runtime: ready, or what is missing and how to get it.

    \b
    Examples:
      specbuild doctor
      specbuild doctor --config configs/llama8b.yaml

    Exits with 0 when a runtime is ready (with --config: that configuration's), else with 1.
    """
    settings = config.load(config_file) if config_file else None
    machine = diagnosis.probe(settings)
    verdicts = diagnosis.judge(machine, settings)
    if as_json:
        print_json(_document(machine, verdicts))
    else:
        Console(highlight=False).print(_render(machine, verdicts))
    return 0 if _ready(verdicts, settings) else 1


def _ready(verdicts: tuple[Verdict, ...], settings: Config | None) -> bool:
    relevant = [verdict for verdict in verdicts if settings is None or verdict.runtime == settings.runtime]
    return any(verdict.ready for verdict in relevant)


def _document(machine: Machine, verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    return {
        "machine": asdict(machine),
        "runtimes": {
            verdict.runtime: {
                "ready": verdict.ready,
                "lacks": [asdict(lack) for lack in verdict.lacks],
                "notes": list(verdict.notes),
            }
            for verdict in verdicts
        },
    }


def _render(machine: Machine, verdicts: tuple[Verdict, ...]) -> RenderableType:
    return Group(_machine(machine), *map(_verdict, verdicts))


def _machine(machine: Machine) -> Table:
    table = Table.grid(padding=(0, 2))
    rows = {
        "Python": Text(machine.python),
        "GPUs": _gpus(machine.gpus),
        "TensorRT-LLM": _version(machine.tensorrt_llm),
        "trtllm-build": _program(machine.trtllm_build),
        "Docker": _program(machine.docker),
        "tritonserver": _program(machine.tritonserver),
        "perf_analyzer": _program(machine.perf_analyzer, hint="pip install perf-analyzer"),
        "PyTorch": _version(machine.torch),
        "NumPy": _version(machine.numpy),
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), value)
    return table


def _gpus(gpus: tuple[Gpu, ...]) -> Text:
    lines = [
        f"{index}: {gpu.name}, {gpu.memory_bytes / (1 << 30):.0f} GiB, compute capability "
        f"{gpu.capability_text}, driver {gpu.driver}"
        for index, gpu in enumerate(gpus)
    ]
    return Text("\n".join(lines)) if lines else Text("none", style="dim")


def _version(version: str | None) -> Text:
    return Text(version) if version else Text("not installed", style="dim")


def _program(program: Program, *, hint: str = "") -> Text:
    if program.found is None:
        return Text(f"not found; {hint}" if hint else "not found", style="dim")
    problem = Text(f" ({program.problem})", style="yellow") if program.problem else Text()
    return Text(program.found, overflow="fold") + problem


def _verdict(verdict: Verdict) -> RenderableType:
    mark, style = ("✓", "green") if verdict.ready else ("✗", "red")
    word = "ready" if verdict.ready else "lacks"
    head = Text.assemble("\n", (mark, style), " ", (verdict.runtime, "bold"), f"  {word}")
    parts: list[RenderableType] = [head]
    for lack in verdict.lacks:
        fix = Text.assemble(("fix: ", "green"), lack.how, overflow="fold")
        parts.append(Padding(Text(f"• {lack.what}"), (0, 0, 0, 2), expand=False))
        parts.append(Padding(fix, (0, 0, 0, 4), expand=False))
    parts += [Padding(Text(note, style="dim"), (0, 0, 0, 4), expand=False) for note in verdict.notes]
    return Group(*parts)
