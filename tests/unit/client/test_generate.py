# SPDX-License-Identifier: Apache-2.0
"""The HTTP codec: bytes of a server, as Triton was seen to send them, become replies or errors."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specclient import errors, generate
from specclient.generate import Answer, Need, Wire
from specclient.reply import Decoder, Outgoing, Reply

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(document: Any) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return chunked(b"data: " + text + b"\n\n")


def asked() -> tuple[Wire, Answer]:
    wire = Wire("h:1", ())
    wire.request("POST", "/v2/models/m/generate_stream", b"{}")
    return wire, Answer(wire)


def replies(data: bytes, *cuts: int) -> list[Reply]:
    """What comes out when ``data`` comes in, cut at ``cuts``, and then the connection closes."""
    wire, answer = asked()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in pairwise(bounds) if a < b] + [b""]
    found = []
    while (item := answer.next()) is not None:
        if item is Need.DATA:
            wire.feed(parts.pop(0))
        else:
            found.append(item)
    assert wire.idle or not parts
    return found


def test_a_request_is_json_with_lists_where_the_tensor_has_several() -> None:
    tensors = {"text_input": ["né".encode()], "seed": [2**64 - 1], "stop_words": [b"a"], "stream": [True]}
    outgoing = Outgoing("m", "r7", tensors, decoupled=True)
    assert json.loads(generate.body(outgoing)) == {
        "id": "r7",
        "text_input": "né",
        "seed": 2**64 - 1,
        "stop_words": ["a"],
        "stream": True,
    }
    assert generate.path(outgoing) == "/v2/models/m/generate_stream"
    assert generate.path(Outgoing("m", "r", tensors, decoupled=False)) == "/v2/models/m/generate"


STREAM = HEAD + event({"text_output": "a", "output_ids": 4, "finish_reason": ""}) + event(
    {"text_output": "bc", "output_ids": [5, 6], "finish_reason": "length"}
) + chunked(b"")  # fmt: skip


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_cut_anywhere_come_back_whole(cuts: list[int]) -> None:
    first, second, last = replies(STREAM, *cuts)
    assert (first.outputs["text_output"], first.outputs["output_ids"]) == ((b"a",), (4,))
    assert (second.outputs["output_ids"], second.outputs["finish_reason"]) == ((5, 6), (b"length",))
    assert last == Reply({}, final=True)


def test_a_whole_answer_is_one_reply_and_the_end() -> None:
    content = b'{"text_output":"all","num_output_tokens":3}'
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    first, last = replies(head.encode() + content)
    assert first.outputs == {"text_output": (b"all",), "num_output_tokens": (3,)} and last.final


def test_bytes_that_are_no_text_survive_the_json_until_the_decoder_replaces_them() -> None:
    smile = "😀".encode()
    data = (
        HEAD + event(b'{"text_output":"' + smile[:3] + b'"}') + event(b'{"text_output":"' + smile[3:] + b'"}')
    )
    data += event(b'{"text_output":"\xff \\ud83d"}') + chunked(b"")
    decoder = Decoder()
    text = "".join(chunk.text for reply in replies(data) if (chunk := decoder.chunk(reply, 0)) is not None)
    assert text.startswith("😀\ufffd ")
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 57\r\n\r\n"
         b'{"error":"Request for unknown model: \'no\' is not found"}\n', errors.ModelNotFound),
        (HEAD.replace(b"200 OK", b"400 Bad Request") + event({"error": "max_tokens: 0"}) + chunked(b""),
         errors.InvalidRequest),
        (HEAD + event({"text_output": "a"}) + event({"error": "out of memory"}) + chunked(b""),
         errors.ServerFailure),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>hi</html>", errors.ConnectError),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", errors.ConnectError),
        (HEAD + event({"text_output": "a"}), errors.ConnectError),
        (b"", errors.ConnectError),
        (b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00@", errors.ConnectError),
        (b"\x15\x03\x01\x00\x02\x02F", errors.TlsError),
    ],
    ids=["wrong-model", "first-event", "later-event", "html", "other-404", "cut", "closed", "grpc", "tls"],
)  # fmt: skip
def test_whatever_else_comes_is_a_typed_error(data: bytes, expected: type[errors.SpecClientError]) -> None:
    with pytest.raises(errors.SpecClientError) as caught:
        replies(data)
    assert type(caught.value) is expected


def test_a_grpc_port_is_named_as_the_reason() -> None:
    with pytest.raises(errors.ConnectError) as caught:
        replies(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00@")
    assert "HTTP port" in caught.value.remedy


@given(st.binary(max_size=200))
def test_no_bytes_of_a_server_raise_anything_else(data: bytes) -> None:
    for prefix in (b"", HEAD, HEAD + b"40\r\ndata: {"):
        with contextlib.suppress(errors.SpecClientError):
            replies(prefix + data)
