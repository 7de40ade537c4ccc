# SPDX-License-Identifier: Apache-2.0
"""The routes: ``/v1/completions``, ``/v1/chat/completions``, ``/v1/models`` and ``/health``."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as WebRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from specbuild.openai_front import schema
from specbuild.openai_front.deployment import Deployment
from specbuild.openai_front.documents import ChatShape, Choice, CompletionShape, Shape
from specbuild.openai_front.generation import Generation, together, usage
from specbuild.openai_front.refusal import Refusal, from_server
from specbuild.openai_front.responses import ClientGoneError, EventStream, while_connected
from specbuild.openai_front.stream import Stream
from specclient import AsyncSpecClient, SpecClientError

MAX_BODY_BYTES = 16 << 20
HEALTH_TIMEOUT_S = 5.0
_GONE = 499
"""nginx's status for a client that has closed its connection; nobody reads it."""


def application(deployment: Deployment) -> Starlette:
    """The front of ``deployment``. Its client lives as long as the application."""
    front = _Front(deployment)
    return Starlette(
        routes=[
            Route("/v1/completions", front.guarded(front.complete), methods=["POST"]),
            Route("/v1/chat/completions", front.guarded(front.chat), methods=["POST"]),
            Route("/v1/models", front.guarded(front.models)),
            Route("/v1/models/{name}", front.guarded(front.model)),
            Route("/health", front.health),
        ],
        lifespan=front.lifespan,
        exception_handlers={HTTPException: _not_served, 500: _failed},
    )


class _Front:
    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._created = int(time.time())
        self._client: AsyncSpecClient

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with AsyncSpecClient(self._deployment.url) as self._client:
            yield

    def guarded(
        self, endpoint: Callable[[WebRequest], Awaitable[Response]]
    ) -> Callable[[WebRequest], Awaitable[Response]]:
        """``endpoint`` for who has the key, with its errors in OpenAI's shape."""

        async def guard(request: WebRequest) -> Response:
            try:
                self._require_key(request)
                return await endpoint(request)
            except Refusal as refusal:
                return _refused(refusal)
            except SpecClientError as error:
                return _refused(from_server(error))
            except (ClientGoneError, ClientDisconnect):
                return Response(status_code=_GONE)

        return guard

    async def complete(self, request: WebRequest) -> Response:
        body = schema.validated(schema.CompletionRequest, await _document(request))
        self._require_model(body.model)
        generations = [
            self._generation(body, prompt, number, copy, body.max_tokens or 16)
            for number, prompt in enumerate(body.prompts)
            for copy in range(body.n or 1)
        ]
        return await self._answer(request, body, generations, CompletionShape())

    async def chat(self, request: WebRequest) -> Response:
        body = schema.validated(schema.ChatRequest, await _document(request))
        self._require_model(body.model)
        template = self._deployment.chat_template
        if template is None:
            raise Refusal(
                400, f"{body.model} has no chat template; use /v1/completions", code="no_chat_template"
            )
        prompt = template.render(body.plain_messages(), **body.chat_template_kwargs)
        _require_unicode(prompt)
        limit = body.limit
        if limit is None:  # counting the tokens of a long prompt takes a while, in which others are served
            limit = await asyncio.to_thread(self._deployment.room_after, prompt)
        generations = [self._generation(body, prompt, 0, copy, limit) for copy in range(body.n or 1)]
        return await self._answer(request, body, generations, ChatShape())

    async def models(self, _request: WebRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: WebRequest) -> Response:
        self._require_model(request.path_params["name"])
        return JSONResponse(self._model())

    async def health(self, _request: WebRequest) -> Response:
        try:
            ready = await asyncio.wait_for(self._client.is_ready(), HEALTH_TIMEOUT_S)
        except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
            ready = False
        return Response(status_code=200 if ready else 503)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._deployment.name,
            "object": "model",
            "created": self._created,
            "owned_by": "specbuild",
            "max_model_len": self._deployment.max_seq_len,
        }

    def _generation(
        self, body: schema.Request, prompt: str, number: int, copy: int, max_tokens: int
    ) -> Generation:
        stream = self._client.stream(prompt, body.parameters(max_tokens, copy))
        return Generation(number * (body.n or 1) + copy, number, stream, body.stops)

    async def _answer(
        self, request: WebRequest, body: schema.Request, generations: list[Generation], shape: Shape
    ) -> Response:
        frame = {
            "id": f"{shape.prefix}-{secrets.token_hex(12)}",
            "object": shape.piece_object if body.stream else shape.whole_object,
            "created": int(time.time()),
            "model": self._deployment.name,
            "system_fingerprint": None,
        }
        token_text = self._deployment.token_text if body.wants_log_probs else None
        if token_text is not None:
            token_text(0)  # refuses before anything is generated
        if not body.stream:
            choices = await while_connected(request.receive, _gathered(generations))
            documents = [shape.whole(choice, token_text) for choice in choices]
            return JSONResponse({**frame, "choices": documents, "usage": usage(generations)})
        pieces = together(generations)
        # The status is sent with the first piece: until there is one, an error still has its own.
        first = await while_connected(request.receive, anext(pieces, None))
        stream = Stream(frame, shape, token_text, generations, body.wants_usage)
        return EventStream(stream.documents(first, pieces))

    def _require_key(self, request: WebRequest) -> None:
        key = self._deployment.api_key
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if key is not None and not (
            scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())
        ):
            raise Refusal(401, "no or wrong API key", code="invalid_api_key")

    def _require_model(self, name: str) -> None:
        if name != self._deployment.name:
            raise Refusal(
                404,
                f"there is no model {name!r}; this server has {self._deployment.name!r}",
                param="model",
                code="model_not_found",
            )


async def _gathered(generations: list[Generation]) -> list[Choice]:
    choices = [Choice(generation.choice) for generation in generations]
    async with contextlib.aclosing(together(generations)) as pieces:
        async for piece in pieces:
            choices[piece.choice].add(piece)
    return choices


async def _document(request: WebRequest) -> Any:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY_BYTES:
            raise Refusal(413, f"the request has more than {MAX_BODY_BYTES:,} bytes")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON") from None


def _require_unicode(prompt: str) -> None:
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal(400, "the messages are not valid Unicode: a lone surrogate", param="messages") from None


def _refused(refusal: Refusal) -> Response:
    return JSONResponse(refusal.document, refusal.status, refusal.headers)


async def _not_served(_request: WebRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refused(
        Refusal(error.status_code, str(error.detail), code="not_served", headers=error.headers or {})
    )


async def _failed(_request: WebRequest, _error: Exception) -> Response:
    return _refused(Refusal(500, "the server failed on this request; its log says why", kind="server_error"))
