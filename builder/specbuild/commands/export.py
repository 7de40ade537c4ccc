# SPDX-License-Identifier: Apache-2.0
"""``specbuild export``: the pair as another server's command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from specbuild import export as exporting
from specbuild.checkpoint.model_config import CONFIG, MODELOPT_CONFIG
from specbuild.commands.options import as_json, configured, print_json
from specbuild.config import Config, Model
from specbuild.export import Pair, Source


@click.group()
def export() -> None:
    """Print the command line and configuration with which another server runs the same pair.

    \b
    Example:
      specbuild export vllm --config configs/llama8b.yaml

    The output is a shell script; warnings about what does not carry over go to stderr. With --json:
    server, versions, argv, files and warnings.
    """


@export.command()
@configured
@as_json
def vllm(settings: Config, as_json: bool) -> None:
    """vLLM, with --speculative-config and method draft_model.

    \b
    Example:
      specbuild export vllm --config configs/llama8b.yaml > serve.sh
    """
    _print("vllm", settings, as_json)


@export.command()
@configured
@as_json
def sglang(settings: Config, as_json: bool) -> None:
    """SGLang, with --speculative-algorithm STANDALONE.

    \b
    Example:
      specbuild export sglang --config configs/llama8b.yaml
    """
    _print("sglang", settings, as_json)


@export.command("trtllm-serve")
@configured
@as_json
def trtllm_serve(settings: Config, as_json: bool) -> None:
    """TensorRT-LLM's own server, and the YAML file it reads, for tensorrt_llm.version.

    \b
    Example:
      specbuild export trtllm-serve --config configs/llama8b.yaml --set tensorrt_llm.version=1.4.0
    """
    _print("trtllm-serve", settings, as_json)


def _print(server: str, settings: Config, as_json: bool) -> None:
    folder = settings.engines_dir
    pair = Pair(_source(settings.target, folder / "target"), _source(settings.draft, folder / "draft"))
    command = exporting.SERVERS[server](settings, pair)
    if as_json:
        print_json(command.document())
        return
    for warning in command.warnings:
        click.echo(click.style("warning: ", fg="yellow", bold=True) + warning, err=True)
    click.echo(command.script())


def _source(model: Model, built: Path) -> Source:
    """The quantised checkpoint in ``built`` when there is one, else the model's own."""
    vocab_size = _vocab_size(model)
    if model.quantization is not None and (built / MODELOPT_CONFIG).is_file():
        return Source(str(built.absolute()), None, model.quantization, vocab_size)
    return Source(model.checkpoint, model.revision, None, vocab_size)


def _vocab_size(model: Model) -> int | None:
    """vocab_size of a checkpoint that is a folder or in the local cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    path = Path(model.checkpoint).expanduser()
    try:
        file: Any = path / CONFIG
        if not path.is_dir():
            file = try_to_load_from_cache(model.checkpoint, CONFIG, revision=model.revision)
        if not isinstance(file, str | Path):
            return None
        value = json.loads(Path(file).read_text(encoding="utf-8"))["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None
