# SPDX-License-Identifier: Apache-2.0
"""A Triton server under load: the client's codec over long-lived streams, one for each request in flight.

A stream serves one request after another. Opening one for every request would cost the server half its rate
with a model that does nothing; perf_analyzer keeps its streams too. Responses are kept as they come and
decoded after the measurement.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

import grpc
from tritonclient.grpc import service_pb2

from specclient import grpc_methods, stream
from specclient.aio import AsyncSpecClient
from specclient.bench import server_side
from specclient.bench.sample import Sample
from specclient.bench.server_side import Statistics
from specclient.bench.targets.target import Server
from specclient.bench.wire import dial, http2, unary
from specclient.bench.workload import Prompt
from specclient.channel import Tls
from specclient.chat import ChatTemplate
from specclient.completion import Chunk
from specclient.connection import Connection, text
from specclient.contract import Contract, Tensors
from specclient.errors import (
    ConnectError,
    FirstTokenTimeout,
    IdleTimeout,
    IncompleteStream,
    InvalidRequest,
    SpecClientError,
    TotalTimeout,
)
from specclient.exchange import CLOSE_GRACE_S, checked_prompt
from specclient.parameters import GenerationParameters
from specclient.reply import Decoder, Outgoing
from specclient.retry import Retry
from specclient.status import translate
from specclient.timeouts import Timeout

SWEEP_S = 0.1
"""How often deadlines are looked at: late by this much, but without a timer for each response."""
CACHED_REQUESTS = 4096
STATISTICS = grpc_methods.SERVICE + "ModelStatistics"
_GRPC_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_PREFIX = 5
"""Bytes before a gRPC message: a compression flag and the length."""

Failure = TypeVar("Failure", bound=SpecClientError)


class TritonTarget:
    """The front model of one Triton server."""

    protocol: Literal["grpc", "http", "openai"] = "grpc"

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: Timeout,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        chat_template: ChatTemplate | Path | str | None = None,
    ) -> None:
        """Raises InvalidRequest for what cannot work."""
        connection = Connection.checked(
            url, timeout=timeout, tls=tls, headers=headers, token=token, keepalive=None
        )
        if connection.address.protocol != "grpc":
            raise InvalidRequest(
                f"{url} is no gRPC address", remedy="Name the server's gRPC port: the load is sent over gRPC."
            )
        self._address = connection.address
        self.url = connection.address.text
        self.model = model
        self.server = Server()
        self._timeout = timeout
        self._tls = connection.tls
        self._headers = connection.headers
        self._template = (
            ChatTemplate.load(chat_template) if isinstance(chat_template, Path | str) else chat_template
        )
        self._contract = Contract()
        # Its connection is for questions beside the load: metadata and statistics.
        self._client = AsyncSpecClient(
            url, model, timeout=timeout, retry=Retry(attempts=1), tls=tls, headers=headers, token=token
        )
        self._connections: list[http2.Connection] = []
        """The last one is in use; those before it were given up by the server."""
        self._connecting = asyncio.Lock()
        self._idle: list[_Stream] = []
        self._busy: set[_Stream] = set()
        self._ids = itertools.count()
        self._run_id = uuid.uuid4().hex[:12]
        self._encoded: dict[tuple[int, int], tuple[bytes, Prompt, GenerationParameters]] = {}
        """Requests without their id; prompt and parameters are kept, so that their identities stay theirs."""
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        about = await self._client.metadata()
        self.server = Server(about.server_name, about.server_version, about.model_platform)
        self._contract = about.contract
        await self._connect()
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def send(self, sample: Sample) -> None:
        sample.request_id = f"{self._run_id}-{next(self._ids)}"
        try:
            message = self._message(sample)
            exchange = await self._stream()
        except SpecClientError as error:
            sample.sent_ns = sample.ended_ns = time.perf_counter_ns()
            sample.error = self._attributed(error, sample)
            await asyncio.sleep(0)  # others must have their turn even when all requests are wrong
            return
        self._busy.add(exchange)
        try:
            await exchange.start(sample, message)
        except asyncio.CancelledError:
            exchange.cancel()
            raise
        finally:
            self._busy.discard(exchange)
        if exchange.usable:
            self._idle.append(exchange)
        if sample.error is not None:
            self._attributed(sample.error, sample)

    def decode(self, sample: Sample) -> tuple[Chunk, ...]:
        decoder = self.decoder(sample.prompt, sample.parameters)
        chunks = []
        for received_ns, raw in sample.receipts:
            message = service_pb2.ModelStreamInferResponse.FromString(raw)
            chunk = decoder.chunk(stream.reply(message), received_ns)
            if chunk is not None:
                chunks.append(chunk)
        return tuple(chunks)

    def tensors(self, prompt: Prompt, parameters: GenerationParameters) -> Tensors:
        """What a request holds, by the model's own contract. Raises InvalidRequest."""
        return self._contract.tensors(checked_prompt(self._text(prompt)), parameters)

    def decoder(self, prompt: Prompt, parameters: GenerationParameters) -> Decoder:
        """What makes chunks of the answer's replies."""
        repeated = self._contract.speculates_in_one_piece(parameters)
        return Decoder(self._contract, drop_prefix=self._text(prompt) if repeated else "")

    async def statistics(self) -> Statistics | None:
        if not self._connections:
            return None
        raw = await unary.call(
            self._connections[-1], self._header_block(STATISTICS), b"", timeout=self._timeout.first_token
        )
        return (
            None
            if raw is None
            else server_side.statistics(service_pb2.ModelStatisticsResponse.FromString(raw))
        )

    @property
    def lost(self) -> str | None:
        """Why the connection is gone; None while it is there."""
        return self._connections[-1].lost if self._connections else None

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        # Streams end in order: Triton 2.51 keeps a request whose stream is cancelled after its end.
        for exchange in self._idle:
            exchange.finish()
        if self._idle:
            await asyncio.wait([exchange.over for exchange in self._idle], timeout=CLOSE_GRACE_S)
        for connection in self._connections:
            connection.close()
            await connection.closed()
        await self._client.close()

    # --- streams ---

    async def _connect(self) -> http2.Connection:
        """The connection in use; a new one where the server has given up the last."""
        async with self._connecting:
            if not self._connections or self._connections[-1].lost is not None:
                self._idle.clear()
                self._connections.append(
                    await dial.connect(self._address, self._tls, timeout=self._timeout.connect)
                )
            return self._connections[-1]

    async def _stream(self) -> _Stream:
        """An idle stream that the server has not closed meanwhile, or a new one."""
        while self._idle:
            if (exchange := self._idle.pop()).usable:
                return exchange
        return _Stream(await self._connect(), self._header_block(stream.METHOD))

    def _header_block(self, method: str) -> bytes:
        return http2.header_block(
            [
                (":method", "POST"),
                (":scheme", "http" if self._tls is None else "https"),
                (":path", method),
                (":authority", "localhost" if self.url.startswith("unix:") else self.url),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *stream.METADATA,
                *self._headers,
            ]
        )

    def _message(self, sample: Sample) -> bytes:
        """The request as a gRPC message, its id last: what is encoded before serves every repetition."""
        # By identity: hashing twenty parameters takes longer than sending them.
        key = (id(sample.prompt), id(sample.parameters))
        found = self._encoded.get(key)
        if found is not None:
            encoded = found[0]
        else:
            tensors = self.tensors(sample.prompt, sample.parameters)
            outgoing = Outgoing(self.model, "", tensors, decoupled=self._contract.decoupled)
            encoded = stream.encode(outgoing).SerializeToString()
            if len(self._encoded) < CACHED_REQUESTS:
                self._encoded[key] = (encoded, sample.prompt, sample.parameters)
        assert sample.request_id is not None
        # Protocol Buffers merge concatenated messages: this is ModelInferRequest.id, field 3.
        number = sample.request_id.encode()
        encoded += b"\x1a" + bytes((len(number),)) + number
        return b"\0" + len(encoded).to_bytes(4, "big") + encoded

    def _text(self, prompt: Prompt) -> str:
        """What Triton takes: messages, or with a template any prompt, through the chat template."""
        if not prompt.messages and self._template is None:
            return prompt.text
        messages = [asdict(message) for message in prompt.messages]
        return text(messages or [{"role": "user", "content": prompt.text}], self._template)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now_ns = time.perf_counter_ns()
            for exchange in list(self._busy):
                error = exchange.overdue(now_ns, self._timeout)
                if error is not None:
                    exchange.fail(error)

    def _attributed(self, error: Failure, sample: Sample) -> Failure:
        error.endpoint, error.request_id = self.url, sample.request_id
        if isinstance(error, IncompleteStream):
            error.text = "".join(chunk.text for chunk in self.decode(sample))
        return error


class _Stream:
    """One ``ModelStreamInfer`` call that carries one request at a time."""

    def __init__(self, connection: http2.Connection, block: bytes) -> None:
        self._connection = connection
        self._number = connection.open(block, self)
        self._sample: Sample | None = None
        self._done: asyncio.Future[None] | None = None
        self._partial = b""
        self._status: tuple[str, str] | None = None
        self.usable = True
        """Whether it takes another request."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the server has ended it."""

    def start(self, sample: Sample, message: bytes) -> asyncio.Future[None]:
        """Send; the future is done when the sample is."""
        self._sample = sample
        self._done = done = asyncio.get_running_loop().create_future()
        sample.sent_ns = time.perf_counter_ns()
        self._connection.send(self._number, message)
        return done

    def finish(self) -> None:
        """Say that no further request comes; the server then ends the stream."""
        self.usable = False
        self._connection.finish(self._number)

    def cancel(self) -> None:
        """Give the request and the stream up."""
        self.usable = False
        self._sample = None
        self._connection.cancel(self._number)

    def fail(self, error: SpecClientError) -> None:
        """End the request with ``error``, and the stream with it."""
        if self._sample is not None:
            self._sample.error = error
            self._finish()
        self.cancel()

    def overdue(self, now_ns: int, timeout: Timeout) -> SpecClientError | None:
        """The error of a limit that the request has passed."""
        sample = self._sample
        if sample is None:
            return None
        receipts = sample.receipts
        if timeout.total is not None and now_ns - sample.sent_ns > timeout.total * 1e9:
            return TotalTimeout(f"not complete within {timeout.total} s")
        if receipts:
            if timeout.idle is not None and now_ns - receipts[-1][0] > timeout.idle * 1e9:
                return IdleTimeout(f"no further token within {timeout.idle} s")
        elif timeout.first_token is not None and now_ns - sample.sent_ns > timeout.first_token * 1e9:
            return FirstTokenTimeout(f"no token within {timeout.first_token} s")
        return None

    # --- what the connection says ---

    def received(self, data: bytes, received_ns: int) -> None:
        if self._partial:
            data = self._partial + data
        position = 0
        while len(data) - position >= _PREFIX:
            end = position + _PREFIX + int.from_bytes(data[position + 1 : position + _PREFIX], "big")
            if end > len(data):
                break
            self._response(data[position + _PREFIX : end], received_ns)
            position = end
        self._partial = data[position:]

    def headers(self, headers: http2.Headers) -> None:
        fields = dict(headers)
        if "grpc-status" in fields:
            code = _GRPC_CODES.get(int(fields["grpc-status"]), "UNKNOWN")
            self._status = (code, unquote(fields.get("grpc-message", ""), errors="replace"))
        elif fields.get(":status", "200") != "200":
            self._status = ("UNAVAILABLE", f"the server answers with HTTP status {fields[':status']}")

    def ended(self, reason: str | None) -> None:
        self.usable = False
        if not self.over.done():
            self.over.set_result(None)
        if self._sample is None:
            return
        started = bool(self._sample.receipts)
        code, text = self._status or ("UNAVAILABLE", reason or "the stream ended without a status")
        error: SpecClientError
        if code == "OK":
            error = IncompleteStream("the stream ended without a final response")
        else:
            error = translate(code, text)
            if isinstance(error, ConnectError) and started:
                error = IncompleteStream(f"the connection broke: {error.message}")
        self._sample.error = error
        self._finish()

    def _response(self, raw: bytes, received_ns: int) -> None:
        sample = self._sample
        if sample is None:
            return
        response: Any = service_pb2.ModelStreamInferResponse.FromString(raw)
        if response.error_message:
            self.fail(translate("", response.error_message))
            return
        sample.receipts.append((received_ns, raw))
        if stream.is_final(response.infer_response):
            sample.ended_ns = received_ns
            self._finish()

    def _finish(self) -> None:
        sample, self._sample = self._sample, None
        if sample is not None and not sample.ended_ns:
            sample.ended_ns = time.perf_counter_ns()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
