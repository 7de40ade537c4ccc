# SPDX-License-Identifier: Apache-2.0
"""gRPC with blocking reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from specclient import channel, inspection, stream
from specclient.address import Address
from specclient.errors import ClientClosed
from specclient.grpc_methods import unary
from specclient.inspection import Metadata
from specclient.reply import Outgoing, Reply
from specclient.status import translate
from specclient.timeouts import Timeout, countdown
from specclient.watchdog import Watchdog


class GrpcTransport:
    """One channel, shared by threads."""

    def __init__(
        self,
        address: Address,
        *,
        timeout: Timeout,
        tls: channel.Tls | None,
        headers: tuple[tuple[str, str], ...],
        keepalive: channel.KeepAlive | None,
    ) -> None:
        self._headers = headers
        self._watchdog = Watchdog()
        options = channel.options(address, timeout, keepalive)
        self._channel = (
            grpc.insecure_channel(address.text, options)
            if tls is None
            else grpc.secure_channel(address.text, channel.credentials(tls), options)
        )
        # On the wire a stream of one request is a unary request; this API spares a thread per call.
        self._method = self._channel.unary_stream(
            stream.METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    def call(self, outgoing: Outgoing, seconds: float | None) -> GrpcCall:
        """Send a request, which may take ``seconds`` in all. Raises SpecClientError."""
        return GrpcCall(
            _open(
                lambda: self._method(
                    stream.encode(outgoing), timeout=seconds, metadata=(*stream.METADATA, *self._headers)
                )
            ),
            self._watchdog,
        )

    def live(self, seconds: float | None) -> bool:
        """Whether the server answers. Raises SpecClientError."""
        return bool(self._ask("ServerLive", seconds).live)

    def ready(self, model: str, seconds: float | None) -> bool:
        """Whether server and model are ready. Raises SpecClientError."""
        left = countdown(seconds)
        return bool(
            self._ask("ServerReady", left()).ready and self._ask("ModelReady", left(), name=model).ready
        )

    def metadata(self, model: str, seconds: float | None) -> Metadata:
        """What server and model say about themselves. Raises SpecClientError."""
        left = countdown(seconds)
        return inspection.of_messages(
            self._ask("ServerMetadata", left()),
            self._ask("ModelMetadata", left(), name=model),
            self._ask("ModelConfig", left(), name=model),
        )

    def close(self) -> None:
        """Cancel every call and release the connection."""
        self._channel.close()
        self._watchdog.close()

    def _ask(self, method: str, seconds: float | None, /, **fields: str) -> Any:
        try:
            return _open(
                lambda: unary(self._channel, method)(
                    getattr(service_pb2, f"{method}Request")(**fields),
                    timeout=seconds,
                    metadata=self._headers,
                )
            )
        except grpc.RpcError as error:
            raise translate(error.code().name, error.details() or "") from error


class GrpcCall:
    """One running request."""

    def __init__(self, call: Any, watchdog: Watchdog) -> None:
        self._call = call
        self._watchdog = watchdog
        self._timed_out = threading.Event()

    def read(self, seconds: float | None) -> Reply | None:
        """The next reply; None at the end. Raises SpecClientError, and TimeoutError after ``seconds``."""
        if seconds is not None:
            self._watchdog.arm(id(self), seconds, self._expire)
        try:
            message = next(self._call, None)
        except grpc.RpcError as error:
            if self._timed_out.is_set():
                raise TimeoutError from error
            raise translate(error.code().name, error.details() or "") from error
        finally:
            self._watchdog.disarm(id(self))
        return None if message is None else stream.reply(message)

    def cancel(self) -> None:
        """End the request on the server; any thread may call it."""
        self._call.cancel()

    def _expire(self) -> None:
        self._timed_out.set()
        self._call.cancel()


def _open(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except ValueError:  # what gRPC says of a channel that another thread has closed
        raise ClientClosed("the client is closed") from None
