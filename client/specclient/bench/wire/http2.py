# SPDX-License-Identifier: Apache-2.0
"""The client's half of HTTP/2 (RFC 9113) as far as gRPC uses it: one connection, many streams, no push.

The peer may fill any window: what is received is small and read at once, so windows are opened to their
maximum and topped up rarely. What is sent obeys the peer's windows and frame size.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 4, 5
CANCEL = 8

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
TOP_UP = 2**29
"""Received bytes after which a window is opened again."""

Headers = list[tuple[str, str]]


class Stream(Protocol):
    """What hears of one stream. Nothing comes after ``ended``."""

    def received(self, data: bytes, received_ns: int) -> None:
        """One DATA frame's content; the time is of its receipt (``time.perf_counter_ns``)."""

    def headers(self, headers: Headers) -> None:
        """The response's headers, or its trailers."""

    def ended(self, reason: str | None) -> None:
        """The peer has closed the stream; with ``reason`` when it was not in order."""


class Connection(asyncio.Protocol):
    """One connection; made by ``loop.create_connection``. Used in its loop only."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        self._decoder = hpack.Decoder()
        self._block = b""
        """A header block whose end has not arrived."""
        self._ends = False
        """Whether that block also ends its stream."""
        self._unacknowledged: dict[int, int] = {}
        """Received bytes by stream, 0 being the connection."""
        self._windows: dict[int, int] = {0: DEFAULT_WINDOW}
        """Bytes that may be sent."""
        self._initial_window = DEFAULT_WINDOW
        self._max_frame = 16_384
        self._waiting: deque[tuple[int, memoryview]] = deque()
        """Data that found a window closed."""
        self._held: list[bytes] = []
        """Frames that leave together at the end of this turn of the loop."""
        self._burst = 0
        """DATA frames of the last read."""
        self._closed = asyncio.Event()
        self.lost: str | None = None
        """Why the connection takes no new streams; None while it does."""

    # --- what the owner calls ---

    def open(self, block: bytes, stream: Stream) -> int:
        """Start a stream with an encoded header block; its id."""
        number = self._next_id
        self._next_id += 2
        self._streams[number] = stream
        self._windows[number] = self._initial_window
        self._write(frame(HEADERS, END_HEADERS, number, block))
        return number

    def send(self, number: int, data: bytes) -> None:
        """Send ``data`` on stream ``number``, now or as soon as the peer's windows allow."""
        if number not in self._streams:
            return  # closed since; its owner has heard so
        size = len(data)
        if (
            not self._waiting
            and size <= self._max_frame
            and size <= self._windows[0]
            and size <= self._windows[number]
        ):
            self._windows[0] -= size
            self._windows[number] -= size
            self._hold(frame(DATA, 0, number, data))
            return
        self._waiting.append((number, memoryview(data)))
        self._flush()

    def finish(self, number: int) -> None:
        """Say that nothing more is sent on stream ``number``; nothing may wait for its window."""
        if number in self._streams:
            self._write(frame(DATA, END_STREAM, number, b""))

    def cancel(self, number: int) -> None:
        """Reset stream ``number``; its owner hears nothing more."""
        if self._streams.pop(number, None) is not None:
            self._forget(number)
            self._write(frame(RST_STREAM, 0, number, CANCEL.to_bytes(4, "big")))

    def close(self) -> None:
        """Close the connection at once; open streams hear that they have ended."""
        if self._transport is not None:
            self._transport.abort()  # a TLS connection would otherwise wait for the peer's farewell

    async def closed(self) -> None:
        """Wait until nothing is left of the connection."""
        await self._closed.wait()

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # No dynamic header table, so that header blocks are the same bytes each time.
        self._write(
            PREFACE
            + frame(SETTINGS, 0, 0, _settings({HEADER_TABLE_SIZE: 0, INITIAL_WINDOW_SIZE: WINDOW}))
            + _window_update(0, WINDOW - DEFAULT_WINDOW)
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._end(self.lost or (str(error) if error else "the server closed the connection"))
        self._closed.set()

    def data_received(self, data: bytes) -> None:
        received_ns = time.perf_counter_ns()
        buffer = self._buffer
        buffer += data
        position, size = 0, len(buffer)
        self._burst = 0
        while size - position >= 9:
            length = int.from_bytes(buffer[position : position + 3], "big")
            end = position + 9 + length
            if end > size:
                break
            number = int.from_bytes(buffer[position + 5 : position + 9], "big") & WINDOW
            self._frame(
                buffer[position + 3],
                buffer[position + 4],
                number,
                bytes(buffer[position + 9 : end]),
                received_ns,
            )
            position = end
        del buffer[:position]

    # --- frames ---

    def _frame(self, kind: int, flags: int, number: int, payload: bytes, received_ns: int) -> None:
        if kind == DATA:
            self._data(flags, number, payload, received_ns)
        elif kind in (HEADERS, CONTINUATION):
            self._headers(kind, flags, number, payload)
        elif kind == SETTINGS and not flags & ACK:
            self._apply(payload)
            self._write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            if number in self._windows:
                self._windows[number] += int.from_bytes(payload, "big")
            self._flush()
        elif kind == RST_STREAM:
            self._close_stream(number, f"the server reset the stream (code {int.from_bytes(payload, 'big')})")
        elif kind == GOAWAY:
            text = payload[8:].decode("utf-8", "replace")
            self.lost = f"the server is going away {text}".strip()

    def _data(self, flags: int, number: int, payload: bytes, received_ns: int) -> None:
        self._burst += 1
        self._count(0, len(payload))
        self._count(number, len(payload))
        stream = self._streams.get(number)
        if stream is not None:
            stream.received(_unpadded(flags, payload), received_ns)
        if flags & END_STREAM:
            self._close_stream(number, None)

    def _headers(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == HEADERS:
            payload = _unpadded(flags, payload)
            self._ends = bool(flags & END_STREAM)
            self._block = payload[5:] if flags & PRIORITY else payload
        else:
            self._block += payload
        if not flags & END_HEADERS:
            return
        try:
            headers = [(str(name), str(value)) for name, value in self._decoder.decode(self._block)]
        except hpack.HPACKError as error:
            self._end(f"not HTTP/2: {error}")
            self.close()
            return
        stream = self._streams.get(number)
        if stream is not None:
            stream.headers(headers)
        if self._ends:
            self._close_stream(number, None)

    def _apply(self, payload: bytes) -> None:
        for start in range(0, len(payload) - 5, 6):
            key = int.from_bytes(payload[start : start + 2], "big")
            value = int.from_bytes(payload[start + 2 : start + 6], "big")
            if key == INITIAL_WINDOW_SIZE:
                for number in self._streams:
                    self._windows[number] += value - self._initial_window
                self._initial_window = value
            elif key == MAX_FRAME_SIZE:
                self._max_frame = value
        self._flush()

    # --- windows ---

    def _count(self, number: int, size: int) -> None:
        received = self._unacknowledged.get(number, 0) + size
        if received >= TOP_UP:
            self._write(_window_update(number, received))
            received = 0
        self._unacknowledged[number] = received

    def _flush(self) -> None:
        while self._waiting:
            number, data = self._waiting[0]
            if number not in self._streams:
                self._waiting.popleft()
                continue
            size = min(len(data), self._max_frame, self._windows[0], self._windows[number])
            if size <= 0:
                return
            self._windows[0] -= size
            self._windows[number] -= size
            self._write(frame(DATA, 0, number, data[:size]))
            if size == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = (number, data[size:])

    # --- ends ---

    def _close_stream(self, number: int, reason: str | None) -> None:
        stream = self._streams.pop(number, None)
        self._forget(number)
        if stream is not None:
            stream.ended(reason)

    def _forget(self, number: int) -> None:
        self._windows.pop(number, None)
        self._unacknowledged.pop(number, None)

    def _end(self, reason: str) -> None:
        self.lost = reason
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.ended(reason)

    def _hold(self, data: bytes) -> None:
        """Write ``data`` at once, or after a read of several answers together with what follows them.

        Each write may wake the server on this core, and whatever waits here waits for it.
        """
        if self._burst < 2:
            self._write(data)
            return
        self._held.append(data)
        if len(self._held) == 1:
            asyncio.get_running_loop().call_soon(self._release)

    def _release(self) -> None:
        if self._held:
            self._write(b"")

    def _write(self, data: bytes) -> None:
        if self._held:
            data = b"".join((*self._held, data))
            self._held.clear()
        if self._transport is not None:
            self._transport.write(data)


def frame(kind: int, flags: int, number: int, payload: bytes | memoryview) -> bytes:
    """One frame as bytes (RFC 9113, 4.1)."""
    return b"".join(
        (len(payload).to_bytes(3, "big"), bytes((kind, flags)), number.to_bytes(4, "big"), payload)
    )


def header_block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as literals that nobody may index (RFC 7541, 6.2.3): some hold secrets."""
    block = bytearray()
    for name, value in headers:
        block += b"\x10"
        for text in (name.encode("ascii"), value.encode("ascii")):
            block += _integer(len(text), prefix=7) + text
    return bytes(block)


def _integer(value: int, *, prefix: int) -> bytes:
    """RFC 7541, 5.1."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((value,))
    octets = bytearray((most,))
    value -= most
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _settings(values: dict[int, int]) -> bytes:
    return b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())


def _window_update(number: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, number, size.to_bytes(4, "big"))


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
