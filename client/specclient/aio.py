# SPDX-License-Identifier: Apache-2.0
"""The asyncio client. It belongs to the event loop in which it is first used."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from specclient import channel, inspection, stream
from specclient.completion import Chunk, Completion
from specclient.errors import ClientClosed, SpecClientError, subject
from specclient.exchange import Exchange
from specclient.inspection import Metadata
from specclient.parameters import GenerationParameters, parameters_from
from specclient.protocol import FRONT_MODEL
from specclient.retry import Retry, RetryBudget
from specclient.status import translate
from specclient.timeouts import Timeout


class AsyncSpecClient:
    """Generates text with the front model of a Triton server, over gRPC, many requests at a time.

    async with AsyncSpecClient("127.0.0.1:8001") as client:
        answer = await client.generate("def main():", max_tokens=64)
        async with client.stream("def main():", temperature=0.8, seed=1) as chunks:
            async for chunk in chunks:
                print(chunk.text, end="", flush=True)
    """

    def __init__(
        self,
        url: str = channel.DEFAULT_URL,
        model: str = FRONT_MODEL,
        *,
        timeout: Timeout | None = None,
        retry: Retry | None = None,
        tls: channel.Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.endpoint = channel.endpoint(url)
        self.model = model
        self._timeout = timeout or Timeout()
        self._budget = RetryBudget(retry or Retry())
        self._headers = channel.headers(headers or {})
        with subject(self.endpoint):
            self._credentials = channel.credentials(tls) if tls is not None else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Any = None
        self._closed = False

    async def generate(
        self,
        prompt: str,
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
        prompt: str,
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
                prompt,
                parameters_from(parameters, fields),
                model=self.model,
                endpoint=self.endpoint,
                request_id=request_id,
                timeout=timeout or self._timeout,
                budget=self._budget,
            )
        return AsyncStream(_Reader(exchange, start=self._start, client_closed=lambda: self._closed))

    async def is_ready(self) -> bool:
        """Whether the server answers and has the model loaded. It may fail on a request all the same."""
        with subject(self.endpoint):
            self._check_usable()
            try:
                server = await self._ask("ServerReady")
                return bool(server.ready and (await self._ask("ModelReady", name=self.model)).ready)
            except SpecClientError:
                return False

    async def metadata(self) -> Metadata:
        """What the server and the model say about themselves. Raises SpecClientError."""
        with subject(self.endpoint):
            self._check_usable()
            return inspection.metadata(
                await self._ask("ServerMetadata"), await self._ask("ModelMetadata", name=self.model)
            )

    async def close(self) -> None:
        """Cancel what is running and release the connection."""
        if not self._closed:
            self._closed = True
            if self._channel is not None:
                await self._channel.close()

    async def __aenter__(self) -> AsyncSpecClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _start(self, exchange: Exchange) -> Any:
        """Send the request; the call reads the responses."""
        self._check_usable()
        call = self._connection().unary_stream(
            stream.METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        return call(exchange.request, timeout=exchange.begin(), metadata=(*stream.METADATA, *self._headers))

    async def _ask(self, method: str, /, **fields: str) -> Any:
        try:
            return await inspection.method(self._connection(), method)(
                inspection.request(method, **fields),
                timeout=self._timeout.first_token,
                metadata=self._headers,
            )
        except grpc.RpcError as error:
            raise translate(*_status(error)) from error

    def _connection(self) -> Any:
        """The channel, made in the running loop, since it cannot be used from another."""
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._loop = loop
            options = channel.options(self.endpoint, self._timeout)
            self._channel = (
                grpc.aio.insecure_channel(self.endpoint, options)
                if self._credentials is None
                else grpc.aio.secure_channel(self.endpoint, self._credentials, options)
            )
        if loop is not self._loop:
            raise ClientClosed("the client was first used in another event loop")
        return self._channel

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
        self, exchange: Exchange, *, start: Callable[[Exchange], Any], client_closed: Callable[[], bool]
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
        exchange = self.exchange
        call = self._start(exchange)
        timer = _Timer(call.cancel)
        try:
            while not exchange.finished():
                response = await self._next(call, timer)
                if response is None:
                    raise exchange.cut()
                chunk = exchange.receive(response)
                if exchange.finished():
                    await self._end(call, timer)
                if chunk is not None:
                    yield chunk
        except asyncio.CancelledError:
            # grpc.aio reports a call that was cancelled here in the same way as a cancelled task.
            if not (timer.expired or self._client_closed()):
                raise
            raise self._stopped(timed_out=timer.expired) from None
        except grpc.RpcError as error:
            raise exchange.failure(*_status(error)) from error
        finally:
            timer.close()
            call.cancel()

    async def _next(self, call: Any, timer: _Timer) -> Any:
        """The next response; None at the end."""
        # Armed only while waiting: a slow consumer is not the server's silence.
        timer.arm(self.exchange.patience())
        response = await call.read()
        timer.disarm()
        return None if response is grpc.aio.EOF else response

    async def _end(self, call: Any, timer: _Timer) -> None:
        """Read the status after the final response: Triton 2.51 keeps a request cancelled after its end."""
        try:
            await self._next(call, timer)
        except grpc.RpcError:
            pass  # the answer is whole, whatever the status says
        except asyncio.CancelledError:
            if not timer.expired:
                raise

    def _stopped(self, *, timed_out: bool) -> SpecClientError:
        return self.exchange.silence() if timed_out else ClientClosed("closed during the request")


class _Timer:
    """Runs an action when a wait gets too long. Re-arming costs no timer of the loop."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self.expired = False

    def arm(self, seconds: float | None) -> None:
        self._deadline = None if seconds is None else self._loop.time() + seconds
        if self._deadline is not None and (self._handle is None or self._deadline < self._handle.when()):
            self._schedule(self._deadline)

    def disarm(self) -> None:
        self._deadline = None

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _schedule(self, when: float) -> None:
        self.close()
        self._handle = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        self._handle = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._schedule(self._deadline)
        else:
            self.expired = True
            self._action()


def _status(error: Any) -> tuple[str, str]:
    return error.code().name, error.details() or ""
