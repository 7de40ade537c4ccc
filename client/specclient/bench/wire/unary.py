# SPDX-License-Identifier: Apache-2.0
"""One question, one answer, on a connection that is there already."""

from __future__ import annotations

import asyncio

from specclient.bench.wire.http2 import Connection, Headers


async def call(
    connection: Connection, block: bytes, message: bytes, *, timeout: float | None
) -> bytes | None:
    """The answer to ``message``; None when the server has none, or not within ``timeout`` seconds."""
    answer = _Answer()
    if connection.lost is not None:
        return None
    number = connection.open(block, answer)
    connection.send(number, b"\0" + len(message).to_bytes(4, "big") + message)
    connection.finish(number)
    try:
        await asyncio.wait_for(answer.done, timeout)
    except asyncio.TimeoutError:
        connection.cancel(number)
        return None
    return answer.message()


class _Answer:
    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data = b""
        self._status = ""

    def received(self, data: bytes, received_ns: int) -> None:
        self._data += data

    def headers(self, headers: Headers) -> None:
        self._status = dict(headers).get("grpc-status", self._status)

    def ended(self, reason: str | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def message(self) -> bytes | None:
        size = int.from_bytes(self._data[1:5], "big")
        whole = self._status == "0" and len(self._data) >= 5 + size
        return self._data[5 : 5 + size] if whole else None
