# SPDX-License-Identifier: Apache-2.0
"""The blocking client. Safe to share between threads; not usable in a forked child."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any

import grpc
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
from specclient.watchdog import Watchdog


class SpecClient:
    """Generates text with the front model of a Triton server, over gRPC.

    with SpecClient("127.0.0.1:8001") as client:
        print(client.generate("def main():", max_tokens=64).text)
        for chunk in client.stream("def main():", temperature=0.8, seed=1):
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
        self._watchdog = Watchdog()
        self._process = os.getpid()
        self._closed = threading.Event()
        options = channel.options(self.endpoint, self._timeout)
        with subject(self.endpoint):
            self._channel = (
                grpc.insecure_channel(self.endpoint, options)
                if tls is None
                else grpc.secure_channel(self.endpoint, channel.credentials(tls), options)
            )
        # On the wire a stream of one request is a unary request; this API spares a thread per call.
        self._call = self._channel.unary_stream(
            stream.METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    def generate(
        self,
        prompt: str,
        parameters: GenerationParameters | None = None,
        *,
        timeout: Timeout | None = None,
        request_id: str | None = None,
        **fields: Any,
    ) -> Completion:
        """The whole answer to ``prompt``. Raises SpecClientError.

        ``fields`` are those of GenerationParameters and go over ``parameters``. The answer is streamed
        underneath, so that all four timeouts hold and its times are known.
        """
        with self.stream(prompt, parameters, timeout=timeout, request_id=request_id, **fields) as chunks:
            for _ in chunks:
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
    ) -> Stream:
        """An iterator over the chunks of the answer; closing it cancels the request on the server.

        The request is sent when the first chunk is asked for. Raises InvalidRequest; the iterator
        raises SpecClientError.
        """
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
        return Stream(
            _Reader(exchange, start=self._start, watchdog=self._watchdog, client_closed=self._closed)
        )

    def is_ready(self) -> bool:
        """Whether the server answers and has the model loaded. It may fail on a request all the same."""
        with subject(self.endpoint):
            self._check_usable()
            try:
                return bool(self._ask("ServerReady").ready and self._ask("ModelReady", name=self.model).ready)
            except SpecClientError:
                return False

    def metadata(self) -> Metadata:
        """What the server and the model say about themselves. Raises SpecClientError."""
        with subject(self.endpoint):
            self._check_usable()
            return inspection.metadata(
                self._ask("ServerMetadata"), self._ask("ModelMetadata", name=self.model)
            )

    def close(self) -> None:
        """Cancel what is running and release the connection."""
        if not self._closed.is_set():
            self._closed.set()
            self._channel.close()
            self._watchdog.close()

    def __enter__(self) -> SpecClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, exchange: Exchange) -> Any:
        """Send the request; the call yields the responses."""
        self._check_usable()
        seconds = exchange.begin()
        try:
            return self._call(exchange.request, timeout=seconds, metadata=(*stream.METADATA, *self._headers))
        except ValueError:  # closed by another thread since the check
            raise ClientClosed("the client is closed") from None

    def _ask(self, method: str, /, **fields: str) -> Any:
        try:
            return inspection.method(self._channel, method)(
                inspection.request(method, **fields),
                timeout=self._timeout.first_token,
                metadata=self._headers,
            )
        except grpc.RpcError as error:
            raise translate(error.code().name, error.details() or "") from error

    def _check_usable(self) -> None:
        if self._closed.is_set():
            raise ClientClosed("the client is closed")
        if os.getpid() != self._process:
            raise ClientClosed("the client was made in another process")


class Stream(Iterator[Chunk]):
    """The chunks of one answer. Leaving or closing it cancels what is left."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        # The reader does not refer back, so that a dropped stream is closed at once, not by the collector.
        self._chunks = reader.chunks()

    @property
    def request_id(self) -> str:
        """The id that the server's log and errors name."""
        return self._reader.exchange.request_id

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def completion(self) -> Completion:
        """The whole answer, once the iterator is exhausted; before, what has arrived."""
        return self._reader.exchange.completion()

    def close(self) -> None:
        """Cancel the request; the server frees its slot within a round. Any thread may call it."""
        self._reader.cancel()
        with contextlib.suppress(ValueError):  # another thread is in it, and sees the cancelled call
            self._chunks.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Reader:
    """Carries out one exchange with blocking reads."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        start: Callable[[Exchange], Any],
        watchdog: Watchdog,
        client_closed: threading.Event,
    ) -> None:
        self.exchange = exchange
        self._start = start
        self._watchdog = watchdog
        self._client_closed = client_closed
        self._cancelled = threading.Event()
        self._call: Any = None

    def cancel(self) -> None:
        self._cancelled.set()
        if self._call is not None:
            self._call.cancel()

    def chunks(self) -> Generator[Chunk, None, None]:
        """The chunks of the first attempt that delivers any."""
        while True:
            try:
                yield from self._attempt()
                return
            except SpecClientError as error:
                pause = self.exchange.pause(self.exchange.attributed(error))
                if pause is None:
                    raise
                self._client_closed.wait(pause)

    def _attempt(self) -> Generator[Chunk, None, None]:
        if self._cancelled.is_set():
            raise ClientClosed("the stream was closed")
        self._call = call = self._start(self.exchange)
        timed_out = threading.Event()

        def expire() -> None:
            timed_out.set()
            call.cancel()

        try:
            while not self.exchange.finished():
                response = self._next(call, expire)
                if response is None:
                    raise self.exchange.cut()
                chunk = self.exchange.receive(response)
                if self.exchange.finished():
                    self._end(call, expire)
                if chunk is not None:
                    yield chunk
        except grpc.RpcError as error:
            raise self._failure(error, timed_out=timed_out.is_set()) from error
        finally:
            self._watchdog.disarm(id(call))
            call.cancel()

    def _next(self, call: Any, expire: Callable[[], None]) -> Any:
        """The next response; None at the end."""
        # Armed only while waiting: a slow consumer is not the server's silence.
        patience = self.exchange.patience()
        if patience is not None:
            self._watchdog.arm(id(call), patience, expire)
        response = next(call, None)
        self._watchdog.disarm(id(call))
        return response

    def _end(self, call: Any, expire: Callable[[], None]) -> None:
        """Read the status after the final response: Triton 2.51 keeps a request cancelled after its end."""
        with contextlib.suppress(grpc.RpcError):  # the answer is whole, whatever the status says
            self._next(call, expire)

    def _failure(self, error: Any, *, timed_out: bool) -> SpecClientError:
        if timed_out:
            return self.exchange.silence()
        if self._cancelled.is_set() or self._client_closed.is_set():
            return ClientClosed("closed during the request")
        return self.exchange.failure(error.code().name, error.details() or "")
