# SPDX-License-Identifier: Apache-2.0
"""A command for another server, and what its writers need to know of the pair."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specbuild.config import Config
from specbuild.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Source:
    """One model as it is to be loaded."""

    checkpoint: str
    """Hub id or folder."""
    revision: str | None
    quantization: str | None
    """Set when the checkpoint is one that specbuild has quantised."""
    vocab_size: int | None
    """None when config.json is not on this machine."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models."""

    target: Source
    draft: Source

    @property
    def vocabularies_differ(self) -> bool | None:
        """None when one of them is unknown."""
        sizes = self.target.vocab_size, self.draft.vocab_size
        return None if None in sizes else sizes[0] != sizes[1]


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, with which files beside it."""

    server: str
    versions: str
    """The releases that the flags were read for."""
    argv: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> content; written into the working directory."""
    warnings: tuple[str, ...] = ()

    def script(self) -> str:
        """The command as POSIX shell: files first, then one flag per line."""
        lines = [f"# {self.server}: {self.versions}"]
        for name, content in self.files.items():
            lines += [f"cat > {shlex.quote(name)} <<'END'", content.rstrip("\n"), "END"]
        return "\n".join([*lines, " \\\n  ".join(_rows(self.argv))])

    def document(self) -> dict[str, Any]:
        """The command as JSON types."""
        return {
            "server": self.server,
            "versions": self.versions,
            "argv": list(self.argv),
            "files": dict(self.files),
            "warnings": list(self.warnings),
        }


def _rows(argv: Sequence[str]) -> list[str]:
    """``argv`` in shell words, each flag with its value on a row of its own."""
    rows: list[str] = []
    for word in argv:
        starts = not rows or word.startswith("--")
        rows[len(rows) if starts else -1 :] = [
            shlex.quote(word) if starts else f"{rows[-1]} {shlex.quote(word)}"
        ]
    return rows


def flags(values: Mapping[str, object]) -> tuple[str, ...]:
    """``--name value`` for each entry: True is a switch, None and False leave the flag out."""
    words: list[str] = []
    for name, value in values.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    return tuple(words)


def refuse_pipeline(settings: Config, server: str) -> None:
    """Raises ConfigError: ``server`` does not speculate under pipeline parallelism."""
    if settings.target.pp_size > 1:
        raise ConfigError(
            f"{server} does not speculate under pipeline parallelism (target.pp_size "
            f"{settings.target.pp_size})",
            remedy="Set target.pp_size=1 and raise target.tp_size.",
        )


def draft_parallel_warning(settings: Config, server: str) -> list[str]:
    """A warning when the configuration gives the draft another number of GPUs than the target."""
    target, draft = settings.target.tp_size, settings.draft.tp_size
    if draft == target:
        return []
    return [f"{server} runs the draft on the target's {target} GPUs; draft.tp_size {draft} is not used"]


def unquantised_warning(settings: Config, pair: Pair, server: str) -> list[str]:
    """A warning for each model that is to be quantised and has not been yet."""
    models = (("target", settings.target, pair.target), ("draft", settings.draft, pair.draft))
    return [
        f"{role}.quantization {model.quantization} is not in the command: {server} loads quantised "
        "checkpoints as they are. Make one with runtime llmapi (`specbuild engines`), then export again"
        for role, model, source in models
        if model.quantization is not None and source.quantization is None
    ]
