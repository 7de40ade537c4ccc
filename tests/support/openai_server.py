# SPDX-License-Identifier: Apache-2.0
"""A small OpenAI-compatible server on loopback, in a thread, with known delays and counts."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from aiohttp import web


class OpenAIServer:
    """Streams ``max_tokens`` tokens, ``burst`` to an event, as vLLM does.

    ``continuous`` sends the usage with every event, as far as the request asks for it; ``refuse`` may answer
    a request with an HTTP status and a message, and ``cut_after`` breaks the connection after so many events.
    """

    def __init__(
        self, *, first: float = 0.02, gap: float = 0.02, burst: int = 1, continuous: bool = True
    ) -> None:
        self.first, self.gap, self.burst, self.continuous = first, gap, burst, continuous
        self.refuse: Callable[[dict[str, Any]], tuple[int, str] | None] = lambda _body: None
        self.cut_after: int | None = None
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = ""

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return runner

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny"}]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append({"path": request.path, **body})
        self.headers.append(dict(request.headers))
        refused = self.refuse(body)
        if refused is not None:
            return web.json_response({"error": {"message": refused[1]}}, status=refused[0])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        total, chat = body["max_tokens"], "messages" in body
        due = self._loop.time() + self.first
        for number, done in enumerate(range(0, total, self.burst)):
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            due += self.gap
            if number == self.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            made = min(done + self.burst, total)
            text = "".join(f"w{index} " for index in range(done, made))
            choice = {"delta": {"content": text}} if chat else {"text": text}
            event: dict[str, Any] = {
                "choices": [{**choice, "finish_reason": "length" if made == total else None}]
            }
            if self.continuous and body["stream_options"].get("continuous_usage_stats"):
                event["usage"] = {"prompt_tokens": 7, "completion_tokens": made}
            await self._event(response, json.dumps(event))
        usage = {"prompt_tokens": 7, "completion_tokens": total}
        await self._event(response, json.dumps({"choices": [], "usage": usage}))
        await self._event(response, "[DONE]")
        return response

    async def _event(self, response: web.StreamResponse, data: str) -> None:
        await response.write(f"data: {data}\n\n".encode())
