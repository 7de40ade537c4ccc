# SPDX-License-Identifier: Apache-2.0
"""Triton's gRPC service, by the names of its methods."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2

SERVICE = "/inference.GRPCInferenceService/"


def unary(channel: Any, name: str) -> Any:
    """The unary method ``name`` on a channel of either API."""
    return channel.unary_unary(
        SERVICE + name,
        request_serializer=getattr(service_pb2, f"{name}Request").SerializeToString,
        response_deserializer=getattr(service_pb2, f"{name}Response").FromString,
    )
