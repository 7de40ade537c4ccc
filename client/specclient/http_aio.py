# SPDX-License-Identifier: Apache-2.0
"""HTTP in an event loop: connections that are used again, one request on each at a time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from typing import Any

from specclient import channel, generate, inspection
from specclient.address import Address
from specclient.errors import ConnectError, SpecClientError
from specclient.generate import Answer, Need, Wire
from specclient.inspection import Metadata
from specclient.reply import Outgoing, Reply
from specclient.status import translate_connecting
from specclient.timeouts import Timeout, countdown
from specclient.timer import Timer

_CHUNK = 65536


class AsyncHttpTransport:
    """The connections of one client in the running event loop."""

    def __init__(
        self,
        address: Address,
        *,
        timeout: Timeout,
        tls: channel.Tls | None,
        headers: tuple[tuple[str, str], ...],
        keepalive: channel.KeepAlive | None,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._context = None if tls is None else channel.context(tls)
        self._headers = headers
        self._keepalive = keepalive
        self._idle: list[_Connection] = []
        self._calls: set[AsyncHttpCall] = set()
        self.closed = False

    async def call(self, outgoing: Outgoing, seconds: float | None) -> AsyncHttpCall:
        """A request, which is sent when it is first read."""
        del seconds  # the reader of the call gives each read what is left
        return self._begin("POST", generate.path(outgoing), generate.body(outgoing))

    async def live(self, seconds: float | None) -> bool:
        """Whether the server answers. Raises SpecClientError."""
        await self._get("/v2/health/live", seconds)
        return True

    async def ready(self, model: str, seconds: float | None) -> bool:
        """Whether server and model are ready. Raises SpecClientError when they are not."""
        left = countdown(seconds)
        await self._get("/v2/health/ready", left())
        await self._get(f"{generate.model_path(model)}/ready", left())
        return True

    async def metadata(self, model: str, seconds: float | None) -> Metadata:
        """What server and model say about themselves. Raises SpecClientError."""
        left = countdown(seconds)
        return inspection.of_documents(
            await self._get("/v2", left()),
            await self._get(generate.model_path(model), left()),
            await self._get(f"{generate.model_path(model)}/config", left()),
        )

    async def close(self) -> None:
        """Cancel every call and close the connections."""
        self.closed = True
        for call in list(self._calls):
            call.abort()
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.writer.close()
        for connection in idle:
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()

    def take(self) -> _Connection | None:
        """A connection that waits for its next request."""
        while self._idle:
            connection = self._idle.pop()
            if not (connection.reader.at_eof() or connection.writer.is_closing()):
                return connection
            connection.writer.close()
        return None

    async def connect(self) -> _Connection:
        """A new connection. Raises ConnectError."""
        host, port = self.address.host, self.address.port
        opening = asyncio.open_connection(
            host, port, ssl=self._context, server_hostname=host if self._context is not None else None
        )
        try:
            reader, writer = await asyncio.wait_for(opening, self._timeout.connect)
        except (OSError, asyncio.TimeoutError) as error:  # another class than TimeoutError in Python 3.10
            reason = error if isinstance(error, OSError) else TimeoutError()
            raise translate_connecting(reason) from error
        if (plain := writer.get_extra_info("socket")) is not None:  # else it is closed already
            channel.keep_alive(plain, self._keepalive)
        return _Connection(reader, writer, Wire(f"{host}:{port}", self._headers))

    def release(self, call: AsyncHttpCall, connection: _Connection | None) -> None:
        """Forget ``call``; its connection serves the next one when it can."""
        self._calls.discard(call)
        if connection is None:
            return
        if connection.wire.idle and not self.closed and not connection.writer.is_closing():
            self._idle.append(connection)
        else:
            connection.writer.transport.abort()

    def _begin(self, method: str, path: str, content: bytes = b"") -> AsyncHttpCall:
        call = AsyncHttpCall(self, method, self.address.path + path, content)
        self._calls.add(call)
        return call

    async def _get(self, path: str, seconds: float | None) -> Mapping[str, Any]:
        call = self._begin("GET", path)
        try:
            return await call.document(seconds)
        finally:
            call.cancel()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire) -> None:
        self.reader = reader
        self.writer = writer
        self.wire = wire


class AsyncHttpCall:
    """One running request."""

    def __init__(self, transport: AsyncHttpTransport, method: str, target: str, content: bytes) -> None:
        self._transport = transport
        self._request = (method, target, content)
        self._connection: _Connection | None = None
        self._connecting: asyncio.Future[_Connection] | None = None
        self._answer: Answer | None = None
        self._reused = False
        self._timer = Timer(self.abort)

    async def read(self, seconds: float | None) -> Reply | None:
        """The next reply; None at the end. Raises SpecClientError, and TimeoutError after ``seconds``."""
        self._timer.arm(seconds)
        try:
            while (item := (await self._started()).next()) is Need.DATA:
                await self._receive()
        except SpecClientError as error:
            if self._timer.expired:
                raise TimeoutError from error
            raise
        finally:
            self._timer.disarm()
        if item is None:
            self._release()
        return item

    async def document(self, seconds: float | None) -> Mapping[str, Any]:
        """The whole answer as JSON. Raises SpecClientError, also when it took more than ``seconds``."""
        self._timer.arm(seconds)
        try:
            while (document := (await self._started()).document()) is Need.DATA:
                await self._receive()
        except SpecClientError as error:
            if self._timer.expired:
                raise generate.late(seconds) from error
            raise
        finally:
            self._timer.disarm()
        self._release()
        assert not isinstance(document, Need)
        return document

    def cancel(self) -> None:
        """End the request; Triton sees that the connection is gone."""
        self._release()

    def abort(self) -> None:
        """Let the read that waits end with an error."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.writer.transport.abort()

    async def _started(self) -> Answer:
        if self._answer is None:
            self._connection = self._transport.take()
            self._reused = self._connection is not None
            await self._send()
        assert self._answer is not None
        return self._answer

    async def _send(self) -> None:
        if self._connection is None:
            self._connection = await self._connect()
        wire = self._connection.wire
        self._answer = Answer(wire)
        try:
            self._connection.writer.write(wire.request(*self._request))
            await self._connection.writer.drain()
        except OSError as error:
            await self._again(generate.broken(error))

    async def _connect(self) -> _Connection:
        self._connecting = asyncio.ensure_future(self._transport.connect())
        try:
            return await self._connecting
        except asyncio.CancelledError:
            if not (self._timer.expired or self._transport.closed):
                self._connecting.cancel()
                raise
            raise ConnectError("the request was cancelled") from None
        finally:
            self._connecting = None

    async def _receive(self) -> None:
        assert self._connection is not None
        try:
            data = await self._connection.reader.read(_CHUNK)
        except ssl.SSLError as error:
            raise translate_connecting(error) from error
        except OSError:
            data = b""  # h11 says what is missing
        if not data and self._connection.wire.silent and self._reused:
            await self._again(generate.broken(None))
        else:
            self._connection.wire.feed(data)

    async def _again(self, error: SpecClientError) -> None:
        """Send on a new connection what found its old one closed by the server while it waited."""
        if not self._reused or self._timer.expired or self._transport.closed:
            raise error
        assert self._connection is not None
        self._connection.writer.close()
        self._connection, self._reused = None, False
        await self._send()

    def _release(self) -> None:
        self._timer.close()
        connection, self._connection = self._connection, None
        self._transport.release(self, connection)
