# SPDX-License-Identifier: Apache-2.0
"""config.pbtxt as protobuf messages: read, changed as fields, printed; no value can break the syntax."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType
from tritonclient.grpc.model_config_pb2 import ModelConfig as _ModelConfig

ModelConfig: TypeAlias = Any
"""tritonclient's ModelConfig message; it ships without type stubs."""

FILE = "config.pbtxt"


def parse(text: str) -> ModelConfig:
    """The message in ``text``. Raises ValueError with line and column."""
    try:
        return text_format.Parse(text, _ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None


def read(folder: Path) -> ModelConfig:
    """The message in ``folder/config.pbtxt``. Raises OSError and ValueError."""
    return parse((folder / FILE).read_text(encoding="utf-8"))


def render(message: ModelConfig) -> str:
    """``message`` as the text of a config.pbtxt."""
    text: str = text_format.MessageToString(message, as_utf8=True)
    # proto3 does not print zeros, but Triton takes an absent max_batch_size for "fill it in".
    if message.max_batch_size == 0 and message.platform != "ensemble":
        text += "max_batch_size: 0\n"
    return text


def set_parameters(message: ModelConfig, values: Mapping[str, object]) -> None:
    """Set parameters that the base file declares; None is written as empty, booleans as true and false."""
    for key, value in values.items():
        if key not in message.parameters:
            raise KeyError(f"{message.name} has no parameter {key}")
        message.parameters[key].string_value = _spell(value)


def data_type(number: int) -> str:
    """The name of a tensor's type: ``TYPE_INT32``."""
    return str(DataType.Name(number))


def _spell(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
