# SPDX-License-Identifier: Apache-2.0
"""Triton's HTTP for ``specclient.testing``: the health, metadata and generate endpoints of one model."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from specclient.channel import Tls
from specclient.completion import Counters

if TYPE_CHECKING:
    from specclient.testing import FakeServer

_STATUSES = {"INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404}
_STATUSES |= {"UNAVAILABLE": 503, "INTERNAL": 500}


class HttpFront(ThreadingHTTPServer):
    """Listens on loopback and answers what the fake's script says."""

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 1024

    def __init__(self, fake: FakeServer, port: int, tls: Tls | None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.fake = fake
        self._context = None if tls is None else _context(tls)
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="fake-http")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Break every connection and give the port back."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        for connection in list(self._open):
            _shut(connection)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            connection = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        _shut(request)
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave and handshakes that fail are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpFront

    def do_GET(self) -> None:
        fake = self.server.fake
        if not fake.admits(self._headers()):
            return self._error(401, "no or wrong bearer token")
        model = f"/v2/models/{fake.model}"
        documents: dict[str, Callable[[], Mapping[str, Any]]] = {
            "/v2": lambda: {"name": "fake", "version": "0"},
            model: fake.metadata,
            f"{model}/config": lambda: {
                "name": fake.model,
                "model_transaction_policy": {"decoupled": fake.contract.decoupled},
                "parameters": {"accumulate_tokens": {"string_value": str(fake.contract.accumulates).lower()}},
            },
        }
        if self.path in {"/v2/health/ready", f"{model}/ready"} or self.path == "/v2/health/live":
            return self._status(200 if fake.ready or self.path.endswith("live") else 400)
        if self.path.startswith(model) and not fake.ready:
            return self._error(400, f"Request for unknown model: '{fake.model}' has no available versions")
        if self.path in documents:
            return self._document(200, documents[self.path]())
        asked = "/".join(self.path.split("/")[3:4])
        return self._error(404, f"Request for unknown model: '{asked}' is not found")

    def do_POST(self) -> None:
        from specclient.testing import Received, is_scalar

        fake = self.server.fake
        content = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not fake.admits(self._headers()):
            return self._error(401, "no or wrong bearer token")
        model, verb = self.path.split("/")[3:5]
        inputs = {
            name: value if is_scalar(name) else tuple(value)
            for name, value in content.items()
            if name != "id"
        }
        received = Received(
            content.get("id", ""), model, str(inputs.get("text_input", "")), inputs, self._headers()
        )
        steps = fake.play(received, self._gone)
        return self._stream(steps) if verb == "generate_stream" else self._whole(steps)

    def _stream(self, steps: Iterable[Any]) -> None:
        from specclient.testing import Fail, Hang, counted, is_final

        said, begun = Counters(), False
        for step in steps:
            if isinstance(step, Fail) and begun and step.code == "UNAVAILABLE":
                break
            if isinstance(step, Fail):
                if not begun:
                    return self._error(_status_of(step), step.message)
                self._event({"error": step.message})
                return self._chunk(b"")
            if isinstance(step, Hang):
                continue
            if not begun:
                self._begin("text/event-stream; charset=utf-8", ("transfer-encoding", "chunked"))
                begun = True
            said = counted(step, said)
            outputs = self.server.fake.outputs(step, said)
            if outputs:
                self._event(_tensors(outputs))
            if is_final(step):
                return self._chunk(b"")
        self.close_connection = True  # without the end of the body: an incomplete answer
        return None

    def _whole(self, steps: Iterable[Any]) -> None:
        from specclient.testing import Fail, counted

        for step in steps:
            if isinstance(step, Fail):
                return self._error(_status_of(step), step.message)
            outputs = self.server.fake.outputs(step, counted(step, Counters()))
            return self._document(200, _tensors(outputs))
        self.close_connection = True
        return None

    def _gone(self, seconds: float | None) -> bool:
        """Wait; whether the client has left: it says nothing while it waits for an answer."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _error(self, status: int, message: str) -> None:
        self._document(status, {"error": message})

    def _document(self, status: int, document: Mapping[str, Any]) -> None:
        content = _json(document)
        self._begin("application/json", ("content-length", str(len(content))), status)
        self.wfile.write(content)

    def _status(self, status: int) -> None:
        self._begin("text/plain", ("content-length", "0"), status)

    def _begin(self, kind: str, framing: tuple[str, str], status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header(*framing)
        self.end_headers()

    def _event(self, document: Mapping[str, Any]) -> None:
        self._chunk(b"data: " + _json(document) + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


def _json(document: Mapping[str, Any]) -> bytes:
    """Text goes in as the bytes that it has, as Triton writes it."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _tensors(outputs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A tensor of one element is a scalar, any other a list."""
    lists = {name: [_text(value) for value in values] for name, values in outputs.items()}
    return {name: values[0] if len(values) == 1 else values for name, values in lists.items()}


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _status_of(failure: Any) -> int:
    words = failure.message.lower()
    if not failure.code:
        return 404 if "is not found" in words else 400
    return _STATUSES.get(failure.code, 500)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(tls.certificate_chain), str(tls.private_key))
    if tls.root_certificates is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(tls.root_certificates))
    return context


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
