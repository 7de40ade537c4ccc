# SPDX-License-Identifier: Apache-2.0
"""The codec of HTTP: Triton's ``generate`` and ``generate_stream``, over one HTTP/1.1 connection. No I/O.

Bytes go in, replies come out; h11 does the protocol. What tritonserver 2.51 was seen to do:

- ``generate_stream`` sends server-sent events, one JSON object for each response; a tensor of one element
  is a scalar, a longer one a flat list. ``generate`` sends one such object, and fails for more responses.
- An error before the first response has its status code (in JSON, or as an event), one after it comes
  as ``data: {"error": ...}`` under status 200.
- No event says that it is the last: the end of the body does. A server that dies leaves it without an end.
- Text that is not valid UTF-8 goes into the JSON as it is.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any
from urllib.parse import quote

import h11

from specclient.errors import ConnectError, InvalidRequest, SpecClientError, TotalTimeout
from specclient.reply import READ, Outgoing, Reply
from specclient.status import translate, translate_http

NOT_HTTP = (
    "Check that the address is the server's HTTP port (8000 unless configured); "
    "for its gRPC port leave `http://` out."
)

# Python's escape for a byte that is no UTF-8 is U+DC80 to U+DCFF.
_LONE_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class Need(Enum):
    """What an answer without a reply waits for."""

    DATA = "data"


def path(outgoing: Outgoing) -> str:
    """The endpoint of a request, under the server's root."""
    verb = "generate_stream" if outgoing.decoupled else "generate"
    return f"{model_path(outgoing.model)}/{verb}"


def model_path(model: str) -> str:
    """Where a model is, under the server's root."""
    return f"/v2/models/{quote(model, safe='')}"


def body(outgoing: Outgoing) -> bytes:
    """The JSON of a request. A list tensor must be a list, any other a scalar."""
    lists = {"stop_words", "bad_words", "embedding_bias_words", "embedding_bias_weights"}
    document: dict[str, Any] = {"id": outgoing.request_id}
    for name, values in outgoing.tensors.items():
        plain = [value.decode() if isinstance(value, bytes) else value for value in values]
        document[name] = plain if name in lists else plain[0]
    return json.dumps(document, ensure_ascii=False).encode()


class Wire:
    """One client connection: requests to bytes, bytes to answers."""

    def __init__(self, host: str, headers: Sequence[tuple[str, str]]) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        self._headers = [("host", host), ("user-agent", "specclient"), *headers]

    def request(self, method: str, target: str, content: bytes = b"") -> bytes:
        """The bytes of a request. The answer to the one before must have been read."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        headers = [*self._headers, ("content-length", str(len(content)))]
        if content:
            headers.append(("content-type", "application/json"))
        try:
            head = self._h11.send(h11.Request(method=method, target=target, headers=headers))
        except h11.LocalProtocolError as error:
            raise InvalidRequest(
                f"a header cannot be sent: {error}", remedy="Leave out the headers that HTTP itself sets."
            ) from error
        return bytes(head or b"") + content + bytes(self._send_body(content))

    def _send_body(self, content: bytes) -> bytes:
        # The content is not copied through h11, which only has to count it.
        self._h11.send_with_data_passthrough(h11.Data(data=content))
        return self._h11.send(h11.EndOfMessage()) or b""

    def feed(self, data: bytes) -> None:
        """Take what the server has sent; empty when it has closed the connection."""
        self._h11.receive_data(data)

    def event(self) -> Any:
        """The next event of h11. Raises ConnectError for what is not HTTP."""
        started = self._h11.their_state not in {h11.IDLE, h11.SEND_RESPONSE}
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            data, closed = self._h11.trailing_data
            if data[:2] == b"\x15\x03":  # an alert of TLS
                raise translate("UNAVAILABLE", "handshake failed: the server wants TLS") from error
            if closed and not data and not started:
                raise closed_early() from error
            if started:
                raise ConnectError(f"the connection broke: {error}") from error
            raise ConnectError("cannot connect: the answer is not HTTP", remedy=NOT_HTTP) from error

    @property
    def idle(self) -> bool:
        """Whether another request may follow."""
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    @property
    def silent(self) -> bool:
        """Whether nothing of the running answer has come."""
        return self._h11.their_state in {h11.IDLE, h11.SEND_RESPONSE} and not self._h11.trailing_data[0]


class Answer:
    """One response of the server: its status, then replies or a whole document."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._status = 0
        self._events = False
        self._body = bytearray()
        self._lines: list[bytes] = []
        self._replies: deque[Reply] = deque()
        self._ended = False

    def next(self) -> Reply | Need | None:
        """The next reply; None after the last. Raises SpecClientError."""
        while not self._replies:
            if self._ended:
                return None
            event = self._wire.event()
            if event is h11.NEED_DATA:
                return Need.DATA
            self._take(event)
        return self._replies.popleft()

    def document(self) -> Mapping[str, Any] | Need:
        """The whole body as JSON; empty for an empty one. Raises SpecClientError."""
        while not self._ended:
            event = self._wire.event()
            if event is h11.NEED_DATA:
                return Need.DATA
            if isinstance(event, h11.EndOfMessage):
                self._ended = True
            elif isinstance(event, h11.Response | h11.Data):
                self._take(event)
            elif isinstance(event, h11.ConnectionClosed):
                raise closed_early()
        if self._status != 200:
            raise self._failure()
        return _object(bytes(self._body)) if self._body.strip() else {}

    def _take(self, event: Any) -> None:
        if isinstance(event, h11.Response):
            self._status = event.status_code
            kind = dict(event.headers).get(b"content-type", b"")
            self._events = self._status == 200 and kind.startswith(b"text/event-stream")
        elif isinstance(event, h11.Data):
            self._body += event.data
            if self._events:
                self._replies.extend(self._parse_events())
        elif isinstance(event, h11.EndOfMessage):
            self._finish()
        elif isinstance(event, h11.ConnectionClosed):
            raise closed_early()

    def _finish(self) -> None:
        self._ended = True
        if self._status != 200:
            raise self._failure()
        if not self._events:
            self._replies.append(_reply(_object(bytes(self._body))))
        self._replies.append(Reply({}, final=True))

    def _parse_events(self) -> list[Reply]:
        """The complete events of the body so far; what follows them waits."""
        replies = []
        *lines, rest = bytes(self._body).split(b"\n")
        self._body = bytearray(rest)
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b":")
            if field == b"data":
                self._lines.append(value.removeprefix(b" "))
            elif not field and self._lines:
                replies.append(_reply(_object(b"\n".join(self._lines))))
                self._lines = []
        return replies

    def _failure(self) -> SpecClientError:
        text = bytes(self._body).strip().removeprefix(b"data:")
        try:
            message = str(_object(text)["error"])
        except (ConnectError, KeyError):
            message = ""
        return translate_http(self._status, message)


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``; bytes that are no UTF-8 become surrogates, which `_text` turns back."""
    try:
        document = json.loads(data.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise ConnectError("the answer is no JSON: this is not Triton", remedy=NOT_HTTP) from error
    if not isinstance(document, dict):
        raise ConnectError("the answer is no JSON object: this is not Triton", remedy=NOT_HTTP)
    return document


def _reply(document: Mapping[str, Any]) -> Reply:
    if "error" in document:
        raise translate("", str(document["error"]))
    return Reply({name: _elements(document[name]) for name in READ & document.keys()}, final=False)


def _elements(value: Any) -> tuple[Any, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(_text(element) if isinstance(element, str) else element for element in values)


def _text(text: str) -> bytes:
    """The bytes that the server wrote; a lone surrogate that came as an escape is replaced."""
    return _LONE_SURROGATES.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def closed_early() -> ConnectError:
    """A connection that the server ended without an answer."""
    return ConnectError(
        "the server closed the connection",
        remedy="It may have been stopped; or it wants TLS (write https://), or this is not its HTTP port.",
    )


def broken(error: OSError | None) -> ConnectError:
    """A connection that ended before the answer began."""
    return ConnectError(
        f"the connection broke: {error.strerror or error}" if error else "the connection broke"
    )


def late(seconds: float | None) -> TotalTimeout:
    """A question about the server or its model that was not answered in time."""
    return TotalTimeout(f"no answer within {seconds} s")
