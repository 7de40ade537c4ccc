# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 without a network: frames in any pieces, windows, padding, ends."""

from __future__ import annotations

import asyncio

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specclient.bench.wire import http2
from specclient.bench.wire.http2 import Connection, frame, header_block


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: object) -> None:
        self.written += data  # type: ignore[arg-type]

    def abort(self) -> None:
        self.closed = True

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """(kind, flags, stream, payload) of everything written since the last call."""
        data, found = bytes(self.written).removeprefix(http2.PREFACE), []
        while data:
            size = int.from_bytes(data[:3], "big")
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
            data = data[9 + size :]
        self.written.clear()
        return found


class Heard:
    """A stream that notes what it hears."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.fields: list[http2.Headers] = []
        self.end: list[str | None] = []

    def received(self, data: bytes, received_ns: int) -> None:
        self.data.append(data)

    def headers(self, headers: http2.Headers) -> None:
        self.fields.append(headers)

    def ended(self, reason: str | None) -> None:
        self.end.append(reason)


def connected() -> tuple[Connection, Transport]:
    connection, transport = Connection(), Transport()
    connection.connection_made(transport)
    return connection, transport


def window(stream: int, size: int) -> bytes:
    return frame(http2.WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def settings(key: int, value: int) -> bytes:
    return frame(http2.SETTINGS, 0, 0, key.to_bytes(2, "big") + value.to_bytes(4, "big"))


def test_the_preface_forbids_a_header_table_and_opens_the_windows() -> None:
    _, transport = connected()
    assert transport.written.startswith(http2.PREFACE)
    first, second = transport.frames()
    assert first[0] == http2.SETTINGS and first[3][:6] == b"\x00\x01\x00\x00\x00\x00"
    assert second[0] == http2.WINDOW_UPDATE and second[2] == 0


@given(st.lists(st.integers(1, 60), max_size=40))
def test_frames_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    connection, _ = connected()
    heard = Heard()
    number = connection.open(b"", heard)
    trailers = hpack.Encoder().encode([("grpc-status", "0"), ("grpc-message", "fine")])
    data = (
        frame(http2.DATA, 0, number, b"one")
        + frame(http2.DATA, http2.PADDED, number, b"\x02two\0\0")
        + frame(http2.HEADERS, http2.END_STREAM, number, trailers[:5])
        + frame(http2.CONTINUATION, http2.END_HEADERS, number, trailers[5:])
    )
    for cut in cuts:
        connection.data_received(data[:cut])
        data = data[cut:]
    connection.data_received(data)
    assert heard.data == [b"one", b"two"] and heard.end == [None]
    assert heard.fields == [[("grpc-status", "0"), ("grpc-message", "fine")]]


def test_what_is_sent_obeys_windows_and_frame_size() -> None:
    connection, transport = connected()
    number = connection.open(b"", Heard())
    transport.frames()
    message = bytes(range(256)) * 400  # 102,400 bytes, and the window has 65,535
    connection.send(number, message)
    sent = transport.frames()
    assert max(len(payload) for *_, payload in sent) <= 16_384
    assert sum(len(payload) for *_, payload in sent) == 65_535
    connection.data_received(window(number, 100_000))
    assert transport.frames() == []  # the connection's own window is still closed
    connection.data_received(settings(http2.MAX_FRAME_SIZE, 1 << 20) + window(0, 100_000))
    rest = [payload for kind, *_, payload in transport.frames() if kind == http2.DATA]
    assert b"".join([*(payload for *_, payload in sent), *rest]) == message and len(rest) == 1


def test_a_smaller_initial_window_holds_for_open_streams() -> None:
    connection, transport = connected()
    number = connection.open(b"", Heard())
    connection.data_received(settings(http2.INITIAL_WINDOW_SIZE, 10))
    transport.frames()
    connection.send(number, b"x" * 30)
    assert [len(payload) for *_, payload in transport.frames()] == [10]
    connection.data_received(window(number, 20))
    assert [len(payload) for *_, payload in transport.frames()] == [20]


def test_a_cancelled_stream_frees_those_that_wait_behind_it() -> None:
    connection, transport = connected()
    first, second = connection.open(b"", Heard()), connection.open(b"", Heard())
    connection.send(first, b"a" * 70_000)
    connection.send(second, b"b" * 10)
    connection.cancel(first)
    transport.frames()
    connection.data_received(window(0, 10))
    assert transport.frames() == [(http2.DATA, 0, second, b"b" * 10)]


def test_pings_and_settings_are_answered() -> None:
    connection, transport = connected()
    transport.frames()
    connection.data_received(frame(http2.PING, 0, 0, b"12345678") + settings(http2.MAX_FRAME_SIZE, 20_000))
    assert transport.frames() == [
        (http2.PING, http2.ACK, 0, b"12345678"),
        (http2.SETTINGS, http2.ACK, 0, b""),
    ]


def test_every_end_is_heard_once() -> None:
    connection, _ = connected()
    reset, lost = Heard(), Heard()
    number = connection.open(b"", reset)
    connection.open(b"", lost)
    connection.data_received(frame(http2.RST_STREAM, 0, number, (7).to_bytes(4, "big")))
    assert reset.end == ["the server reset the stream (code 7)"]
    connection.data_received(frame(http2.GOAWAY, 0, 0, bytes(8) + b"bye"))
    assert connection.lost is not None and lost.end == []
    connection.connection_lost(None)
    assert lost.end == ["the server is going away bye"] and len(reset.end) == 1


def test_what_is_not_http2_ends_the_connection() -> None:
    connection, transport = connected()
    heard = Heard()
    number = connection.open(b"", heard)
    connection.data_received(frame(http2.HEADERS, http2.END_HEADERS, number, b"\xff\xff\xff\xff\xff"))
    assert transport.closed and heard.end[0] is not None and "not HTTP/2" in heard.end[0]


@pytest.mark.parametrize("value", ["", "x" * 126, "x" * 127, "x" * 300, "x" * 20_000])
def test_header_blocks_are_read_by_others(value: str) -> None:
    fields = [(":method", "POST"), ("authorization", value)]
    decoded = hpack.Decoder(max_header_list_size=1 << 20).decode(header_block(fields))
    assert [(str(name), str(text)) for name, text in decoded] == fields


async def test_what_answers_several_frames_leaves_in_one_write() -> None:
    connection, transport = connected()
    numbers = [connection.open(b"", Heard()) for _ in range(3)]
    transport.frames()
    connection.data_received(b"".join(frame(http2.DATA, 0, number, b"x") for number in numbers))
    for number in numbers:
        connection.send(number, b"next")
    assert transport.written == b""
    await asyncio.sleep(0)
    assert [number for *_, number, _ in transport.frames()] == numbers
    connection.data_received(frame(http2.DATA, 0, numbers[0], b"x"))
    connection.send(numbers[0], b"alone")
    assert len(transport.frames()) == 1  # nothing to wait for
    connection.data_received(frame(http2.DATA, 0, numbers[0], b"x") * 2)
    connection.send(numbers[0], b"held")
    connection.cancel(numbers[0])
    assert [kind for kind, *_ in transport.frames()] == [http2.DATA, http2.RST_STREAM]
