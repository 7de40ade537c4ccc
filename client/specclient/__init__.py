# SPDX-License-Identifier: Apache-2.0
"""Client and benchmark harness for speculatively decoding Triton deployments."""

from specclient.aio import AsyncSpecClient, AsyncStream
from specclient.channel import KeepAlive, Tls
from specclient.chat import ChatTemplate
from specclient.completion import Chunk, Completion, Counters
from specclient.errors import (
    AccessDenied,
    ClientClosed,
    ConnectError,
    ConnectTimeout,
    FirstTokenTimeout,
    IdleTimeout,
    IncompleteStream,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    RequestTimeout,
    ServerFailure,
    SpecClientError,
    TlsError,
    TotalTimeout,
)
from specclient.inspection import Metadata
from specclient.parameters import GenerationParameters
from specclient.retry import Retry
from specclient.sync import SpecClient, Stream
from specclient.timeouts import Timeout

__all__ = [
    "AccessDenied",
    "AsyncSpecClient",
    "AsyncStream",
    "ChatTemplate",
    "Chunk",
    "ClientClosed",
    "Completion",
    "ConnectError",
    "ConnectTimeout",
    "Counters",
    "FirstTokenTimeout",
    "GenerationParameters",
    "IdleTimeout",
    "IncompleteStream",
    "InvalidRequest",
    "KeepAlive",
    "Metadata",
    "ModelNotFound",
    "ModelNotReady",
    "QueueFull",
    "RequestTimeout",
    "Retry",
    "ServerFailure",
    "SpecClient",
    "SpecClientError",
    "Stream",
    "Timeout",
    "Tls",
    "TlsError",
    "TotalTimeout",
]
