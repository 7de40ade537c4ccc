# SPDX-License-Identifier: Apache-2.0
"""A plan: the steps that make both engines, as values. Making one runs nothing and writes nothing."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbuild.pairing.finding import ModelName


@dataclass(frozen=True, slots=True)
class Step:
    """One program run that turns its inputs into one folder."""

    name: str
    model: ModelName
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Set in addition to the caller's environment."""
    inputs: tuple[Path, ...]
    """Folders that are read."""
    outputs: tuple[Path, ...]
    """Files that must exist afterwards, all in one folder."""
    key: str
    """Content key: equal keys give interchangeable outputs."""

    @property
    def folder(self) -> Path:
        """Where the outputs lie."""
        return self.outputs[0].parent

    @property
    def offline(self) -> bool:
        """Whether it needs no network."""
        return "HF_HUB_OFFLINE" in self.env

    def relocated(self, folder: Path) -> Step:
        """The same step writing into another folder."""
        old, new = str(self.folder), str(folder)
        argv = [new + word[len(old) :] if _is_in(word, old) else word for word in self.argv]
        outputs = tuple(folder / path.name for path in self.outputs)
        return dataclasses.replace(self, argv=tuple(argv), outputs=outputs)

    def document(self) -> dict[str, Any]:
        """The step as JSON types."""
        return {
            "name": self.name,
            "model": self.model,
            "argv": list(self.argv),
            "env": dict(self.env),
            "inputs": [str(path) for path in self.inputs],
            "outputs": [str(path) for path in self.outputs],
            "key": self.key,
        }


@dataclass(frozen=True, slots=True)
class Expected:
    """What the config.json of a finished engine must say."""

    version: str
    speculative_decoding_mode: int
    max_draft_len: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    """As the builder stores it: with the draft length on top of what was asked."""
    max_num_tokens: int
    """At least."""
    vocab_size: int
    tp_size: int
    pp_size: int
    dtype: str
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    tokens_per_block: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that has to be run, in order, and what must come out."""

    steps: tuple[Step, ...]
    """Of each model, every step reads what the one before it wrote; the last one writes the engine."""
    expected: Mapping[ModelName, Expected]

    def of(self, model: ModelName) -> tuple[Step, ...]:
        """The steps of one model, in order."""
        return tuple(step for step in self.steps if step.model == model)

    def document(self) -> dict[str, Any]:
        """The plan as JSON types."""
        return {"steps": [step.document() for step in self.steps]}


def _is_in(word: str, folder: str) -> bool:
    return word == folder or word.startswith(folder + "/")


def shell_line(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """``argv`` with ``env`` as one line that a POSIX shell runs as it stands."""
    assignments = [f"{name}={value}" for name, value in env.items()]
    return shlex.join(["env", *assignments, *argv] if assignments else argv)


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan to be shown: as a JSON document, and as commands to paste into a shell."""

    document: dict[str, Any]
    text: str
