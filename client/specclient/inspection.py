# SPDX-License-Identifier: Apache-2.0
"""What a server and its model say about themselves, and the requests that ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2

SERVICE = "/inference.GRPCInferenceService/"


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


def method(channel: Any, name: str) -> Any:
    """The unary method ``name`` of Triton's service on a channel of either API."""
    return channel.unary_unary(
        SERVICE + name,
        request_serializer=getattr(service_pb2, f"{name}Request").SerializeToString,
        response_deserializer=getattr(service_pb2, f"{name}Response").FromString,
    )


def request(method: str, /, **fields: str) -> Any:
    """The message that method ``method`` takes."""
    return getattr(service_pb2, f"{method}Request")(**fields)


def metadata(server: Any, model: Any) -> Metadata:
    """From a ``ServerMetadataResponse`` and a ``ModelMetadataResponse``."""
    return Metadata(
        server_name=server.name,
        server_version=server.version,
        model=model.name,
        model_platform=model.platform,
        model_versions=tuple(model.versions),
        inputs=tuple(tensor.name for tensor in model.inputs),
        outputs=tuple(tensor.name for tensor in model.outputs),
    )
