# SPDX-License-Identifier: Apache-2.0
"""The asyncio client. It belongs to the event loop in which it is first used."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from specclient import address, channel
from specclient.chat import ChatTemplate
from specclient.completion import Chunk, Completion
from specclient.connection import Connection, Prompt, template, text
from specclient.contract import Contract
from specclient.errors import AccessDenied, ClientClosed, SpecClientError, subject
from specclient.exchange import Exchange
from specclient.grpc_aio import AsyncGrpcCall, AsyncGrpcTransport
from specclient.http_aio import AsyncHttpCall, AsyncHttpTransport
from specclient.inspection import Metadata
from specclient.parameters import GenerationParameters, parameters_from
from specclient.protocol import FRONT_MODEL
from specclient.retry import Retry, RetryBudget
from specclient.timeouts import Timeout


class AsyncSpecClient:
    """Generates text with the front model of a Triton server, over gRPC or HTTP, many requests at a time.

    async with AsyncSpecClient("127.0.0.1:8001") as client:    # or "http://127.0.0.1:8000"
        answer = await client.generate("def main():", max_tokens=64)
        async with client.stream("def main():", temperature=0.8, seed=1) as chunks:
            async for chunk in chunks:
                print(chunk.text, end="", flush=True)
    """

    def __init__(
        self,
        url: str = address.DEFAULT_URL,
        model: str = FRONT_MODEL,
        *,
        timeout: Timeout | None = None,
        retry: Retry | None = None,
        tls: channel.Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        keepalive: channel.KeepAlive | None = None,
        chat_template: ChatTemplate | Path | str | None = None,
    ) -> None:
        """``token`` is a bearer token, ``chat_template`` (a folder will do) what messages need."""
        self._connection = Connection.checked(
            url, timeout=timeout, tls=tls, headers=headers, token=token, keepalive=keepalive
        )
        self.endpoint = self._connection.address.text
        self.model = model
        self.chat_template = template(chat_template)
        self._timeout = self._connection.timeout
        self._budget = RetryBudget(retry or Retry())
        with subject(self.endpoint):
            if tls is not None:
                tls.read()  # what cannot be read is known now, not in the event loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: AsyncGrpcTransport | AsyncHttpTransport | None = None
        self._contract: Contract | None = None
        self._learning: asyncio.Task[Contract] | None = None
        self._closed = False

    async def generate(
        self,
        prompt: Prompt,
        parameters: GenerationParameters | None = None,
        *,
        timeout: Timeout | None = None,
        request_id: str | None = None,
        **fields: Any,
    ) -> Completion:
        """The whole answer to ``prompt``. Raises SpecClientError; see ``SpecClient.generate``."""
        async with self.stream(
            prompt, parameters, timeout=timeout, request_id=request_id, **fields
        ) as chunks:
            async for _ in chunks:
                pass
            return chunks.completion()

    def stream(
        self,
        prompt: Prompt,
        parameters: GenerationParameters | None = None,
        *,
        timeout: Timeout | None = None,
        request_id: str | None = None,
        **fields: Any,
    ) -> AsyncStream:
        """An async iterator over the chunks of the answer; see ``SpecClient.stream``."""
        request_id = request_id or uuid.uuid4().hex
        with subject(self.endpoint, request_id):
            self._check_usable()
            exchange = Exchange(
                text(prompt, self.chat_template),
                parameters_from(parameters, fields),
                model=self.model,
                endpoint=self.endpoint,
                request_id=request_id,
                timeout=timeout or self._timeout,
                budget=self._budget,
            )
        return AsyncStream(_Reader(exchange, start=self._start, client_closed=lambda: self._closed))

    async def is_live(self) -> bool:
        """Whether the server answers at all."""
        return await self._holds(lambda transport: transport.live(self._timeout.first_token))

    async def is_ready(self) -> bool:
        """Whether the server answers and has the model loaded. It may fail on a request all the same."""
        return await self._holds(lambda transport: transport.ready(self.model, self._timeout.first_token))

    async def metadata(self) -> Metadata:
        """What the server and the model say about themselves. Raises SpecClientError."""
        with subject(self.endpoint):
            self._check_usable()
            return await self._connected().metadata(self.model, self._timeout.first_token)

    async def close(self) -> None:
        """Cancel what is running and release the connection."""
        if not self._closed:
            self._closed = True
            if self._learning is not None:
                self._learning.cancel()
            if self._transport is not None:
                await self._transport.close()

    async def __aenter__(self) -> AsyncSpecClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _start(self, exchange: Exchange) -> AsyncGrpcCall | AsyncHttpCall:
        """Begin an attempt. Raises SpecClientError, and TimeoutError."""
        self._check_usable()
        seconds = exchange.begin()
        transport = self._connected()
        contract = self._contract or await self._learn(exchange.patience())
        return await transport.call(exchange.outgoing(contract), seconds)

    async def _learn(self, seconds: float | None) -> Contract:
        """Ask the model once for its tensors, however many requests wait for the answer."""
        if self._learning is None:
            self._learning = asyncio.ensure_future(self._ask())
            self._learning.add_done_callback(self._learned)
        try:
            return await asyncio.wait_for(asyncio.shield(self._learning), seconds)
        except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
            raise TimeoutError from None
        except SpecClientError as error:  # each request attributes its own
            raise copy.copy(error) from error.__cause__
        except asyncio.CancelledError:
            if not self._closed:
                raise
            raise ClientClosed("the client is closed") from None

    async def _ask(self) -> Contract:
        try:
            return (await self._connected().metadata(self.model, self._timeout.first_token)).contract
        except AccessDenied:  # metadata may be restricted where generating is not
            return Contract()

    def _learned(self, task: asyncio.Task[Contract]) -> None:
        self._learning = None
        if not task.cancelled() and task.exception() is None:
            self._contract = task.result()

    async def _holds(
        self, question: Callable[[AsyncGrpcTransport | AsyncHttpTransport], Awaitable[bool]]
    ) -> bool:
        with subject(self.endpoint):
            self._check_usable()
            try:
                return await question(self._connected())
            except SpecClientError:
                return False

    def _connected(self) -> AsyncGrpcTransport | AsyncHttpTransport:
        """The transport, made in the running loop, since it cannot be used from another."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            self._loop = loop
            over_grpc = self._connection.address.protocol == "grpc"
            kind = AsyncGrpcTransport if over_grpc else AsyncHttpTransport
            self._transport = kind(self._connection.address, **self._connection.options())
        if loop is not self._loop:
            raise ClientClosed("the client was first used in another event loop")
        return self._transport

    def _check_usable(self) -> None:
        if self._closed:
            raise ClientClosed("the client is closed")


class AsyncStream(AsyncIterator[Chunk]):
    """The chunks of one answer. Close it, or use it in ``async with``, to cancel what is left."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._chunks = reader.chunks()

    @property
    def request_id(self) -> str:
        """The id that the server's log and errors name."""
        return self._reader.exchange.request_id

    def __anext__(self) -> Awaitable[Chunk]:
        return self._chunks.__anext__()

    def completion(self) -> Completion:
        """The whole answer, once the iterator is exhausted; before, what has arrived."""
        return self._reader.exchange.completion()

    async def aclose(self) -> None:
        """Cancel the request; the server frees its slot within a round."""
        await self._chunks.aclose()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Reader:
    """Carries out one exchange in the running event loop."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        start: Callable[[Exchange], Awaitable[AsyncGrpcCall | AsyncHttpCall]],
        client_closed: Callable[[], bool],
    ) -> None:
        self.exchange = exchange
        self._start = start
        self._client_closed = client_closed

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The chunks of the first attempt that delivers any."""
        while True:
            attempt = self._attempt()
            try:
                async for chunk in attempt:
                    yield chunk
                return
            except SpecClientError as error:
                pause = self.exchange.pause(self.exchange.attributed(error))
                if pause is None:
                    raise
            finally:
                await attempt.aclose()
            await asyncio.sleep(pause)

    async def _attempt(self) -> AsyncGenerator[Chunk, None]:
        call = None
        try:
            call = await self._start(self.exchange)
            while not self.exchange.finished():
                reply = await call.read(self.exchange.patience())
                if reply is None:
                    raise self.exchange.cut()
                chunk = self.exchange.receive(reply)
                if self.exchange.finished():
                    await self._end(call)
                if chunk is not None:
                    yield chunk
        except TimeoutError as error:
            raise self.exchange.silence() from error
        except SpecClientError as error:
            failure = self._failure(error)
            raise failure from (error.__cause__ if failure is error else error)
        finally:
            if call is not None:
                call.cancel()

    async def _end(self, call: AsyncGrpcCall | AsyncHttpCall) -> None:
        """Read the status after the final reply: Triton 2.51 keeps a request cancelled after its end."""
        with contextlib.suppress(SpecClientError, TimeoutError):  # the answer is whole, whatever comes now
            await call.read(self.exchange.patience())

    def _failure(self, error: SpecClientError) -> SpecClientError:
        if self._client_closed():
            return self.exchange.attributed(ClientClosed("closed during the request"))
        return self.exchange.failure(error)
