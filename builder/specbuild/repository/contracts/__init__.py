# SPDX-License-Identifier: Apache-2.0
"""What NVIDIA's ``tensorrtllm`` backend knows: tensorrt_llm_model.json, with its upstream source."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DATA = Path(__file__).with_name("tensorrt_llm_model.json")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of the engine's model."""

    name: str
    data_type: str
    """As in config.pbtxt; ``logits`` and ``any`` are chosen by who fills the template in."""
    dims: tuple[int, ...]

    def accepts(self, data_type: str) -> bool:
        """Whether a model may declare the tensor with this type."""
        return self.data_type == "any" or data_type in _LOGITS.get(self.data_type, (self.data_type,))


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the engine's model; its value is text."""

    key: str
    type: str
    required: bool
    choices: tuple[str, ...]

    def complaint(self, value: str) -> str | None:
        """Why the backend cannot read ``value``; None when it can. Empty counts as not set."""
        if not value:
            return None
        if self.choices and value not in self.choices:
            return f"{value!r} is none of {', '.join(self.choices)}"
        try:
            _READ[self.type](value)
        except ValueError:
            return f"{value!r} is not of type {self.type}"
        return None


def boolean(value: str) -> bool:
    """``value`` as the backend reads a boolean. Raises ValueError."""
    if value in ("True", "true", "TRUE", "1"):
        return True
    if value in ("False", "false", "FALSE", "0"):
        return False
    raise ValueError(value)


def integers(value: str) -> list[list[int]]:
    """``0,1;2,3`` as one list for each instance of the model. Raises ValueError."""
    return [[int(number) for number in part.split(",")] for part in value.split(";")]


_LOGITS = {"logits": ("TYPE_FP32", "TYPE_FP16")}
_READ: Mapping[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "bool": boolean,
    "text": str,
    "ints": integers,
    "int lists": integers,
}


@functools.cache
def inputs() -> Mapping[str, Tensor]:
    """Every input by name."""
    return _tensors("inputs")


@functools.cache
def outputs() -> Mapping[str, Tensor]:
    """Every output by name."""
    return _tensors("outputs")


@functools.cache
def renamed_inputs() -> Mapping[str, str]:
    """Inputs of TensorRT-LLM 0.19 and older -> their name since."""
    return dict(_document()["renamed_inputs"])


@functools.cache
def parameters() -> Mapping[str, Parameter]:
    """Every parameter by key."""
    return {
        row["key"]: Parameter(
            row["key"], row["type"], row.get("required", False), tuple(row.get("choices", ()))
        )
        for row in _document()["parameters"]
    }


def _tensors(side: str) -> Mapping[str, Tensor]:
    return {
        row["name"]: Tensor(row["name"], row["data_type"], tuple(row["dims"])) for row in _document()[side]
    }


@functools.cache
def _document() -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads(_DATA.read_text(encoding="utf-8"))
    return content
