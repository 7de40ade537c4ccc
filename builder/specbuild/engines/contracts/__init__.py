# SPDX-License-Identifier: Apache-2.0
"""What TensorRT-LLM's programs accept, as data: one JSON file per program, with its upstream source.

The flags were read in the files of NVIDIA/TensorRT-LLM that each document names. A plan is checked
against them before anything runs, so that a wrong flag fails in a second and not after an hour.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Tool = Literal[
    "trtllm_build",
    "quantize",
    "convert_checkpoint_llama",
    "convert_checkpoint_qwen",
    "convert_checkpoint_gemma",
    "hf_ptq",
]

_FOLDER = Path(__file__).parent
_TYPES = {"int": int, "float": float, "str": str, "enum": str}


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of a program."""

    name: str
    type: str
    """int, float, str, enum, or bool for a switch without a value."""
    choices: tuple[Any, ...] | None
    required: bool

    def read(self, value: str) -> Any:
        """``value`` as the program would see it. Raises ValueError."""
        try:
            parsed = _TYPES[self.type](value)
        except ValueError:
            raise ValueError(f"{self.name} {value!r} is not of type {self.type}") from None
        if self.choices is not None and parsed not in self.choices:
            raise ValueError(f"{self.name} {value!r} is none of {', '.join(map(str, self.choices))}")
        return parsed


@functools.cache
def document(name: str) -> Mapping[str, Any]:
    """The JSON document ``name`` of this folder."""
    content: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content


@functools.cache
def flags(tool: Tool) -> Mapping[str, Flag]:
    """Every spelling of every flag of ``tool``; aliases lead to the same Flag."""
    result: dict[str, Flag] = {}
    for entry in document(tool)["flags"]:
        choices = tuple(entry["choices"]) if "choices" in entry else None
        flag = Flag(entry["name"], entry["type"], choices, entry.get("required", False))
        result |= dict.fromkeys([flag.name, *entry.get("aliases", ())], flag)
    return result


def parse(tool: Tool, arguments: Sequence[str]) -> dict[str, Any]:
    """Flag name -> value of ``--flag value`` pairs and switches, as specbuild writes them.

    Raises ValueError on an unknown or repeated flag, a value of the wrong type or outside the choices,
    and a missing required flag.
    """
    known, values = flags(tool), {}
    words = iter(arguments)
    for word in words:
        flag = known.get(word)
        if flag is None:
            raise ValueError(f"{tool} has no flag {word!r}")
        if flag.name in values:
            raise ValueError(f"{flag.name} is given twice")
        values[flag.name] = True if flag.type == "bool" else flag.read(next(words, ""))
    missing = [flag.name for flag in known.values() if flag.required and flag.name not in values]
    if missing:
        raise ValueError(f"{tool} needs {missing[0]}")
    return values
