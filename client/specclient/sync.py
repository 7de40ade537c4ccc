# SPDX-License-Identifier: Apache-2.0
"""The blocking client. Safe to share between threads; not usable in a forked child."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
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
from specclient.grpc_sync import GrpcCall, GrpcTransport
from specclient.http_sync import HttpCall, HttpTransport
from specclient.inspection import Metadata
from specclient.parameters import GenerationParameters, parameters_from
from specclient.protocol import FRONT_MODEL
from specclient.retry import Retry, RetryBudget
from specclient.timeouts import Timeout


class SpecClient:
    """Generates text with the front model of a Triton server, over gRPC or HTTP.

    with SpecClient("127.0.0.1:8001") as client:               # or "http://127.0.0.1:8000"
        print(client.generate("def main():", max_tokens=64).text)
        for chunk in client.stream("def main():", temperature=0.8, seed=1):
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
        connection = Connection.checked(
            url, timeout=timeout, tls=tls, headers=headers, token=token, keepalive=keepalive
        )
        self.endpoint = connection.address.text
        self.model = model
        self.chat_template = template(chat_template)
        self._timeout = connection.timeout
        self._budget = RetryBudget(retry or Retry())
        self._process = os.getpid()
        self._closed = threading.Event()
        self._contract: Contract | None = None
        with subject(self.endpoint):
            kind = GrpcTransport if connection.address.protocol == "grpc" else HttpTransport
            self._transport: GrpcTransport | HttpTransport = kind(connection.address, **connection.options())

    def generate(
        self,
        prompt: Prompt,
        parameters: GenerationParameters | None = None,
        *,
        timeout: Timeout | None = None,
        request_id: str | None = None,
        **fields: Any,
    ) -> Completion:
        """The whole answer to ``prompt``, a text or chat messages. Raises SpecClientError.

        ``fields`` are those of GenerationParameters and go over ``parameters``. The answer is streamed
        underneath, so that all four timeouts hold and its times are known.
        """
        with self.stream(prompt, parameters, timeout=timeout, request_id=request_id, **fields) as chunks:
            for _ in chunks:
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
    ) -> Stream:
        """An iterator over the chunks of the answer; closing it cancels the request on the server.

        The request is sent when the first chunk is asked for. Raises InvalidRequest; the iterator
        raises SpecClientError.
        """
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
        return Stream(_Reader(exchange, start=self._start, client_closed=self._closed))

    def is_live(self) -> bool:
        """Whether the server answers at all."""
        return self._holds(lambda: self._transport.live(self._timeout.first_token))

    def is_ready(self) -> bool:
        """Whether the server answers and has the model loaded. It may fail on a request all the same."""
        return self._holds(lambda: self._transport.ready(self.model, self._timeout.first_token))

    def metadata(self) -> Metadata:
        """What the server and the model say about themselves. Raises SpecClientError."""
        with subject(self.endpoint):
            self._check_usable()
            return self._transport.metadata(self.model, self._timeout.first_token)

    def close(self) -> None:
        """Cancel what is running and release the connection."""
        if not self._closed.is_set():
            self._closed.set()
            self._transport.close()

    def __enter__(self) -> SpecClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, exchange: Exchange) -> GrpcCall | HttpCall:
        """Begin an attempt. Raises SpecClientError."""
        self._check_usable()
        seconds = exchange.begin()
        contract = self._contract or self._learn(exchange.patience())
        return self._transport.call(exchange.outgoing(contract), seconds)

    def _learn(self, seconds: float | None) -> Contract:
        """Ask the model once for its tensors. Several threads may do so at the same time."""
        try:
            self._contract = self._transport.metadata(self.model, seconds).contract
        except AccessDenied:  # metadata may be restricted where generating is not
            self._contract = Contract()
        return self._contract

    def _holds(self, question: Callable[[], bool]) -> bool:
        with subject(self.endpoint):
            self._check_usable()
            try:
                return question()
            except SpecClientError:
                return False

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
        start: Callable[[Exchange], GrpcCall | HttpCall],
        client_closed: threading.Event,
    ) -> None:
        self.exchange = exchange
        self._start = start
        self._client_closed = client_closed
        self._cancelled = threading.Event()
        self._call: GrpcCall | HttpCall | None = None

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
        call = None
        try:
            self._call = call = self._start(self.exchange)
            while not self.exchange.finished():
                reply = call.read(self.exchange.patience())
                if reply is None:
                    raise self.exchange.cut()
                chunk = self.exchange.receive(reply)
                if self.exchange.finished():
                    self._end(call)
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

    def _end(self, call: GrpcCall | HttpCall) -> None:
        """Read the status after the final reply: Triton 2.51 keeps a request cancelled after its end."""
        with contextlib.suppress(SpecClientError, TimeoutError):  # the answer is whole, whatever comes now
            call.read(self.exchange.patience())

    def _failure(self, error: SpecClientError) -> SpecClientError:
        if self._cancelled.is_set() or self._client_closed.is_set():
            return self.exchange.attributed(ClientClosed("closed during the request"))
        return self.exchange.failure(error)
