# SPDX-License-Identifier: Apache-2.0
"""Server-sent events, and work that ends when its client has gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of ``work``, which is cancelled when the client leaves. Raises ClientGoneError.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends each document as one event, and ``[DONE]`` at the end."""

    media_type = "text/event-stream"

    def __init__(self, documents: AsyncGenerator[Mapping[str, Any], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._documents = documents

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with contextlib.suppress(ClientGoneError):
            await while_connected(receive, self._send(send))
        await self._documents.aclose()

    async def _send(self, send: Send) -> None:
        async for document in self._documents:
            await _event(send, json.dumps(document, ensure_ascii=False, allow_nan=False))
        await _event(send, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _event(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
