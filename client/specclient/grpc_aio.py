# SPDX-License-Identifier: Apache-2.0
"""gRPC in an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from specclient import channel, inspection, stream
from specclient.address import Address
from specclient.grpc_methods import unary
from specclient.inspection import Metadata
from specclient.reply import Outgoing, Reply
from specclient.status import translate
from specclient.timeouts import Timeout, countdown
from specclient.timer import Timer


class AsyncGrpcTransport:
    """One channel of the running event loop."""

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
        self._closed = False
        options = channel.options(address, timeout, keepalive)
        self._channel = (
            grpc.aio.insecure_channel(address.text, options)
            if tls is None
            else grpc.aio.secure_channel(address.text, channel.credentials(tls), options)
        )

    async def call(self, outgoing: Outgoing, seconds: float | None) -> AsyncGrpcCall:
        """Send a request, which may take ``seconds`` in all."""
        method = self._channel.unary_stream(
            stream.METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        metadata = (*stream.METADATA, *self._headers)
        return AsyncGrpcCall(self, method(stream.encode(outgoing), timeout=seconds, metadata=metadata))

    async def live(self, seconds: float | None) -> bool:
        """Whether the server answers. Raises SpecClientError."""
        return bool((await self._ask("ServerLive", seconds)).live)

    async def ready(self, model: str, seconds: float | None) -> bool:
        """Whether server and model are ready. Raises SpecClientError."""
        left = countdown(seconds)
        server = await self._ask("ServerReady", left())
        return bool(server.ready and (await self._ask("ModelReady", left(), name=model)).ready)

    async def metadata(self, model: str, seconds: float | None) -> Metadata:
        """What server and model say about themselves. Raises SpecClientError."""
        return inspection.of_messages(
            *await asyncio.gather(
                self._ask("ServerMetadata", seconds),
                self._ask("ModelMetadata", seconds, name=model),
                self._ask("ModelConfig", seconds, name=model),
            )
        )

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._closed

    async def close(self) -> None:
        """Cancel every call and release the connection."""
        self._closed = True
        await self._channel.close()

    async def _ask(self, method: str, seconds: float | None, /, **fields: str) -> Any:
        message = getattr(service_pb2, f"{method}Request")(**fields)
        try:
            return await unary(self._channel, method)(message, timeout=seconds, metadata=self._headers)
        except grpc.RpcError as error:
            raise _translated(error) from error


class AsyncGrpcCall:
    """One running request."""

    def __init__(self, transport: AsyncGrpcTransport, call: Any) -> None:
        self._transport = transport
        self._call = call
        self._timer = Timer(call.cancel)

    async def read(self, seconds: float | None) -> Reply | None:
        """The next reply; None at the end. Raises SpecClientError, and TimeoutError after ``seconds``."""
        self._timer.arm(seconds)
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            raise _translated(error) from error
        except asyncio.CancelledError:
            # grpc.aio reports a call that was cancelled here in the same way as a cancelled task.
            if self._timer.expired:
                raise TimeoutError from None
            if self._transport.closed:
                raise translate("CANCELLED", "") from None
            raise
        finally:
            self._timer.disarm()
        return None if message is grpc.aio.EOF else stream.reply(message)

    def cancel(self) -> None:
        """End the request on the server."""
        self._timer.close()
        self._call.cancel()


def _translated(error: Any) -> Exception:
    return translate(error.code().name, error.details() or "")
