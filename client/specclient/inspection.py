# SPDX-License-Identifier: Apache-2.0
"""What a server and its model say about themselves, over either protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specclient.contract import Contract


@dataclass(frozen=True, slots=True)
class Metadata:
    """A server and one of its models."""

    server_name: str
    server_version: str
    model: str
    model_platform: str
    model_versions: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    decoupled: bool = True
    """Whether the model can stream: answer one request with several responses."""
    accumulates: bool = False
    """Whether each response repeats the text so far."""

    @property
    def contract(self) -> Contract:
        """Which tensors a request to the model may hold."""
        return Contract(frozenset(self.inputs), frozenset(self.outputs), self.decoupled, self.accumulates)


def of_messages(server: Any, model: Any, config: Any) -> Metadata:
    """From ``ServerMetadataResponse``, ``ModelMetadataResponse`` and ``ModelConfigResponse``."""
    return Metadata(
        server_name=server.name,
        server_version=server.version,
        model=model.name,
        model_platform=model.platform,
        model_versions=tuple(model.versions),
        inputs=tuple(tensor.name for tensor in model.inputs),
        outputs=tuple(tensor.name for tensor in model.outputs),
        decoupled=config.config.model_transaction_policy.decoupled,
        accumulates=_true(config.config.parameters["accumulate_tokens"].string_value)
        if "accumulate_tokens" in config.config.parameters
        else False,
    )


def of_documents(server: Mapping[str, Any], model: Mapping[str, Any], config: Mapping[str, Any]) -> Metadata:
    """The same from the JSON of ``/v2``, ``/v2/models/NAME`` and ``/v2/models/NAME/config``."""
    accumulate = config.get("parameters", {}).get("accumulate_tokens", {}).get("string_value", "")
    return Metadata(
        server_name=server.get("name", ""),
        server_version=server.get("version", ""),
        model=model.get("name", ""),
        model_platform=model.get("platform", ""),
        model_versions=tuple(model.get("versions", ())),
        inputs=tuple(tensor["name"] for tensor in model.get("inputs", ())),
        outputs=tuple(tensor["name"] for tensor in model.get("outputs", ())),
        decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled", False)),
        accumulates=_true(accumulate),
    )


def _true(text: str) -> bool:
    """As NVIDIA's BLS model reads its parameter."""
    return text.lower() in {"true", "yes", "1", "t"}
