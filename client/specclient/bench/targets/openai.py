# SPDX-License-Identifier: Apache-2.0
"""A server with OpenAI's HTTP interface under load: vLLM, SGLang, trtllm-serve, or specbuild's own front.

Answers are streamed as server-sent events. Tokens are the server's count: of the whole answer from the
``usage`` of the last event, and of each chunk where the server sends it all along (vLLM and SGLang do, when
``continuous_usage_stats`` asks for it).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Literal

import aiohttp

from specclient.bench.sample import Sample
from specclient.bench.server_side import Statistics
from specclient.bench.targets.target import Server
from specclient.completion import Chunk, Counters
from specclient.errors import (
    AccessDenied,
    ConnectError,
    ConnectTimeout,
    FirstTokenTimeout,
    IdleTimeout,
    IncompleteStream,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    ServerFailure,
    SpecClientError,
    TotalTimeout,
)
from specclient.parameters import GenerationParameters
from specclient.protocol import FinishReason
from specclient.timeouts import Timeout

STATUS: dict[int, type[SpecClientError]] = {
    400: InvalidRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: ModelNotFound,
    413: InvalidRequest,
    422: InvalidRequest,
    429: QueueFull,
    503: ModelNotReady,
}
DONE = b"[DONE]"
LONGEST_MESSAGE = 500
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class OpenAITarget:
    """``/v1/completions``, or ``/v1/chat/completions`` for prompts with messages."""

    protocol: Literal["grpc", "http", "openai"] = "openai"

    def __init__(
        self, url: str, model: str | None = None, *, timeout: Timeout, token: str | None = None
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model or ""
        self.server = Server()
        self._timeout = timeout
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the load decides how many connections there are
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.connect),
            read_bufsize=1 << 20,
        )
        try:
            async with self._session.get(
                f"{self.url}/v1/models", timeout=aiohttp.ClientTimeout(total=self._timeout.first_token)
            ) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.text())
                names = [str(model["id"]) for model in (await response.json(content_type=None))["data"]]
                self.server = Server(name=response.headers.get("Server"))
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise self._attributed(_broken(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._attributed(ConnectError("/v1/models is not what OpenAI's interface says")) from error
        except SpecClientError as error:
            raise self._attributed(error) from None
        if not self.model and not names:
            raise self._attributed(ModelNotFound("the server lists no model"))
        self.model = self.model or names[0]

    async def send(self, sample: Sample) -> None:
        assert self._session is not None
        path, body = self._body(sample)
        sample.sent_ns = time.perf_counter_ns()
        try:
            await asyncio.wait_for(self._exchange(self._session, path, body, sample), self._timeout.total)
        except asyncio.TimeoutError:
            sample.error = TotalTimeout(f"not complete within {self._timeout.total} s")
        except (aiohttp.ClientError, OSError) as error:
            broken = _broken(error)
            sample.error = IncompleteStream(broken.message) if sample.receipts else broken
        except SpecClientError as error:
            sample.error = error
        sample.ended_ns = sample.ended_ns or time.perf_counter_ns()
        if sample.error is not None:
            self._attributed(sample.error).request_id = sample.request_id

    def decode(self, sample: Sample) -> tuple[Chunk, ...]:
        chunks: list[Chunk] = []
        counters = Counters()
        for received_ns, raw in sample.receipts:
            event = json.loads(raw)
            if not isinstance(event, dict) or "error" in event or event.get("object") == "error":
                raise ServerFailure(_message(raw.decode("utf-8", "replace")))
            counters = _counters(event.get("usage"), counters)
            choice = next(iter(event.get("choices") or ()), None)
            text = _text(choice) if choice is not None else ""
            reason = _REASONS.get(choice.get("finish_reason") or "") if choice is not None else None
            if text:
                chunks.append(Chunk(text, (), len(chunks), received_ns, reason, counters))
            elif chunks:  # the end, or the usage: it belongs to the last chunk
                last = chunks[-1]
                chunks[-1] = Chunk(
                    last.text, (), last.index, last.received_ns, reason or last.finish_reason, counters
                )
        return tuple(chunks)

    async def statistics(self) -> Statistics | None:
        return None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _body(self, sample: Sample) -> tuple[str, bytes]:
        parameters = sample.parameters
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": parameters.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            **_sampling(parameters),
        }
        if parameters.stop:
            body["stop"] = list(parameters.stop)
        if sample.prompt.messages:
            body["messages"] = [
                {"role": message.role, "content": message.content} for message in sample.prompt.messages
            ]
            return "/v1/chat/completions", json.dumps(body).encode()
        return "/v1/completions", json.dumps({**body, "prompt": sample.prompt.text}).encode()

    async def _exchange(self, session: aiohttp.ClientSession, path: str, body: bytes, sample: Sample) -> None:
        request = session.post(self.url + path, data=body, headers={"Content-Type": "application/json"})
        try:
            response = await asyncio.wait_for(request, self._timeout.first_token)
        except aiohttp.ServerTimeoutError:  # of sock_connect, the only limit that the session has
            raise ConnectTimeout(f"no connection within {self._timeout.connect} s") from None
        except asyncio.TimeoutError:
            raise FirstTokenTimeout(f"no token within {self._timeout.first_token} s") from None
        async with response:
            if response.status != 200:
                raise _refusal(response.status, await response.text())
            sample.request_id = response.headers.get("X-Request-Id")
            await self._events(response, sample)

    async def _events(self, response: aiohttp.ClientResponse, sample: Sample) -> None:
        while True:
            patience = self._timeout.idle if sample.receipts else self._timeout.first_token
            try:
                line = await asyncio.wait_for(response.content.readline(), patience)
            except asyncio.TimeoutError:
                if sample.receipts:
                    raise IdleTimeout(f"no further token within {patience} s") from None
                raise FirstTokenTimeout(f"no token within {patience} s") from None
            received_ns = time.perf_counter_ns()
            if not line:
                raise IncompleteStream("the stream ended without its last event")
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == DONE:
                return
            if not data:
                continue
            sample.receipts.append((received_ns, data))

    def _attributed(self, error: SpecClientError) -> SpecClientError:
        error.endpoint = self.url
        return error


def _sampling(parameters: GenerationParameters) -> dict[str, Any]:
    named = {
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_k": parameters.top_k,  # this and some others are not OpenAI's, but all three servers take them
        "seed": parameters.seed,
        "min_tokens": parameters.min_tokens,
        "repetition_penalty": parameters.repetition_penalty,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
    }
    chosen = {name: value for name, value in named.items() if value is not None}
    # Greedy is this harness's default; OpenAI's is temperature 1.
    return chosen if {"temperature", "top_p", "top_k"} & chosen.keys() else {**chosen, "temperature": 0}


def _text(choice: Mapping[str, Any]) -> str:
    delta = choice.get("delta") or {}
    # Models that think stream their thoughts under a name of their own; the tokens are output all the same.
    return str(choice.get("text") or delta.get("content") or delta.get("reasoning_content") or "")


def _counters(usage: Any, before: Counters) -> Counters:
    if not isinstance(usage, dict):
        return before
    return Counters(
        num_input_tokens=int(usage.get("prompt_tokens") or 0),
        num_output_tokens=int(usage.get("completion_tokens") or 0),
    )


def _refusal(status: int, text: str) -> SpecClientError:
    return STATUS.get(status, ServerFailure)(f"HTTP {status}: {_message(text)}")


def _message(text: str) -> str:
    try:
        found = json.loads(text)
        error = found.get("error", found)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        pass
    return text.strip()[:LONGEST_MESSAGE] or "the server gave no reason"


def _broken(error: Exception) -> ConnectError:
    return ConnectError(
        f"cannot connect: {str(error) or type(error).__name__}",
        remedy="Check that the server is running and that the address is its HTTP port.",
    )
