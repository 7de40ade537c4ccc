# SPDX-License-Identifier: Apache-2.0
"""HTTP with blocking reads: connections that are used again, one request on each at a time."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any

from specclient import channel, generate, inspection
from specclient.address import Address
from specclient.errors import ClientClosed, ConnectError, SpecClientError
from specclient.generate import Answer, Need, Wire
from specclient.inspection import Metadata
from specclient.reply import Outgoing, Reply
from specclient.status import translate_connecting
from specclient.timeouts import Timeout, countdown

_CHUNK = 65536


class HttpTransport:
    """The connections of one client, shared by threads."""

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
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._calls: set[HttpCall] = set()
        self._closed = False

    def call(self, outgoing: Outgoing, seconds: float | None) -> HttpCall:
        """A request, which is sent when it is first read. Raises ClientClosed."""
        del seconds  # the reader of the call gives each read what is left
        return self._begin("POST", generate.path(outgoing), generate.body(outgoing))

    def live(self, seconds: float | None) -> bool:
        """Whether the server answers. Raises SpecClientError."""
        self._get("/v2/health/live", seconds)
        return True

    def ready(self, model: str, seconds: float | None) -> bool:
        """Whether server and model are ready. Raises SpecClientError when they are not."""
        left = countdown(seconds)
        self._get("/v2/health/ready", left())
        self._get(f"{generate.model_path(model)}/ready", left())
        return True

    def metadata(self, model: str, seconds: float | None) -> Metadata:
        """What server and model say about themselves. Raises SpecClientError."""
        left = countdown(seconds)
        return inspection.of_documents(
            self._get("/v2", left()),
            self._get(generate.model_path(model), left()),
            self._get(f"{generate.model_path(model)}/config", left()),
        )

    def close(self) -> None:
        """Cancel every call and close the connections."""
        with self._lock:
            self._closed = True
            running, idle = list(self._calls), self._idle
            self._idle = []
        for call in running:
            call.cancel()
        for connection in idle:
            connection.close()

    def take(self) -> _Connection | None:
        """A connection that waits for its next request."""
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not connection.stale():
                    return connection
                connection.close()
        return None

    def connect(self, seconds: float | None) -> _Connection:
        """A new connection. Raises ConnectError, and TimeoutError when ``seconds`` end before its limit."""
        limit = self._timeout.connect
        hurried = seconds is not None and (limit is None or seconds < limit)
        try:
            plain = socket.create_connection(
                (self.address.host, self.address.port), seconds if hurried else limit
            )
            try:
                channel.keep_alive(plain, self._keepalive)
                secured = (
                    plain
                    if self._context is None
                    else self._context.wrap_socket(plain, server_hostname=self.address.host)
                )
            except BaseException:
                plain.close()
                raise
        except OSError as error:
            if hurried and isinstance(error, TimeoutError):
                raise
            raise translate_connecting(error) from error
        return _Connection(secured, Wire(f"{self.address.host}:{self.address.port}", self._headers))

    def release(self, call: HttpCall, connection: _Connection | None) -> None:
        """Forget ``call``; its connection serves the next one when it can."""
        with self._lock:
            self._calls.discard(call)
            if connection is not None and connection.wire.idle and not self._closed:
                self._idle.append(connection)
                return
        if connection is not None:
            connection.close()

    def _begin(self, method: str, path: str, content: bytes = b"") -> HttpCall:
        call = HttpCall(self, method, self.address.path + path, content)
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed")
            self._calls.add(call)
        return call

    def _get(self, path: str, seconds: float | None) -> Mapping[str, Any]:
        call = self._begin("GET", path)
        try:
            return call.document(seconds)
        finally:
            call.cancel()


class _Connection:
    def __init__(self, connected: socket.socket, wire: Wire) -> None:
        self.socket = connected
        self.wire = wire

    def stale(self) -> bool:
        """Whether the server has closed it, or says something unasked."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Let a read in another thread end. The socket is still to be closed."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own method, which takes the encryption away from under a read.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()


class HttpCall:
    """One running request."""

    def __init__(self, transport: HttpTransport, method: str, target: str, content: bytes) -> None:
        self._transport = transport
        self._request = (method, target, content)
        self._connection: _Connection | None = None
        self._answer: Answer | None = None
        self._reused = False
        self._cancelled = False
        self._reading = threading.Lock()

    def read(self, seconds: float | None) -> Reply | None:
        """The next reply; None at the end. Raises SpecClientError, and TimeoutError after ``seconds``."""
        with self._reading:
            deadline = None if seconds is None else time.monotonic() + seconds
            while (item := self._started(deadline).next()) is Need.DATA:
                self._receive(deadline)
            if item is None:
                self._release()
            return item

    def document(self, seconds: float | None) -> Mapping[str, Any]:
        """The whole answer as JSON. Raises SpecClientError, also when it took more than ``seconds``."""
        with self._reading:  # else a cancel of another thread would close the socket under the read
            deadline = None if seconds is None else time.monotonic() + seconds
            try:
                while (document := self._started(deadline).document()) is Need.DATA:
                    self._receive(deadline)
            except TimeoutError as error:
                raise generate.late(seconds) from error
            self._release()
        assert not isinstance(document, Need)
        return document

    def cancel(self) -> None:
        """End the request; Triton sees that the connection is gone. Any thread may call it."""
        self._cancelled = True
        if self._reading.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._reading.release()
        elif (connection := self._connection) is not None:
            connection.abort()  # the read that is going on ends, and its reader releases

    def _started(self, deadline: float | None) -> Answer:
        if self._cancelled:
            raise ConnectError("the request was cancelled")
        if self._answer is None:
            self._connection = self._transport.take()
            self._reused = self._connection is not None
            self._send(deadline)
        assert self._answer is not None
        return self._answer

    def _send(self, deadline: float | None) -> None:
        if self._connection is None:
            self._connection = self._transport.connect(_left(deadline))
        if self._cancelled:
            raise ConnectError("the request was cancelled")
        wire = self._connection.wire
        self._answer = Answer(wire)
        data = wire.request(*self._request)
        try:
            self._connection.socket.settimeout(_left(deadline))
            self._connection.socket.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            self._again(deadline, generate.broken(error))

    def _receive(self, deadline: float | None) -> None:
        assert self._connection is not None
        try:
            self._connection.socket.settimeout(_left(deadline))
            data = self._connection.socket.recv(_CHUNK)
        except TimeoutError:
            raise
        except ssl.SSLError as error:
            raise translate_connecting(error) from error
        except OSError:
            data = b""  # h11 says what is missing
        if not data and self._connection.wire.silent and self._reused:
            self._again(deadline, generate.broken(None))
        else:
            self._connection.wire.feed(data)

    def _again(self, deadline: float | None, error: SpecClientError) -> None:
        """Send on a new connection what found its old one closed by the server while it waited."""
        if not self._reused or self._cancelled:
            raise error
        assert self._connection is not None
        self._connection.close()
        self._connection, self._reused = None, False
        self._send(deadline)

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        self._transport.release(self, connection)


def _left(deadline: float | None) -> float | None:
    """Seconds until ``deadline``. Raises TimeoutError when it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
