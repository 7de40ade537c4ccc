# SPDX-License-Identifier: Apache-2.0
"""A server for tests: Triton's gRPC and HTTP on loopback ports, in this process, saying what a script says.

    def respond(request):
        yield Say("Hello", after=0.05)
        yield Say(" world", after=0.01, final=True)

    with FakeServer(respond) as server, SpecClient(server.url) as client:
        assert client.generate("Hi").text == "Hello world"

Requests arrive over a real connection (``url`` for gRPC, ``http_url`` for HTTP), so deadlines, cancellation
and status codes are the protocol's own. Times follow an absolute schedule: a late step does not delay the
ones after it. ``contract`` makes it behave like another model, such as NVIDIA's stock `ensemble`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from specclient import grpc_methods, protocol, stream
from specclient.channel import Tls
from specclient.completion import Counters
from specclient.contract import Contract
from specclient.fake_http import HttpFront


@dataclass(frozen=True, slots=True)
class Say:
    """Send a chunk, ``after`` seconds later than the step before."""

    text: str | bytes = ""
    token_ids: Sequence[int] = ()
    after: float = 0.0
    final: bool = False
    finish_reason: str = ""
    """Empty means "stop" on the final chunk."""
    counters: Counters | None = None
    """None counts one round for each chunk and no drafts."""
    log_probs: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class EmptyFinal:
    """Send the final flag alone, as models do that learn too late that they are done."""

    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Fail:
    """End with an error: as a gRPC status, or with ``code`` empty as a text in the stream.

    Over HTTP it is a status before the first chunk and an event after it; UNAVAILABLE after a chunk breaks
    the connection, as a server does that dies.
    """

    message: str
    code: str = "INTERNAL"
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing more, and keep the stream open, as Triton does when a model's process has died."""


Step = Say | EmptyFinal | Fail | Hang


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    id: str
    model: str
    prompt: str
    inputs: Mapping[str, Any]
    """Every tensor by name: a value, or a tuple for the ones with a list."""
    headers: Mapping[str, str]
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when the client has left before the end."""


Respond = Callable[[Received], Iterable[Step]]


def words(
    request: Received, *, first: float = 0.0, gap: float = 0.0, burst: int = 1, accepted: float = 1.0
) -> Iterator[Step]:
    """``max_tokens`` words that depend on the prompt alone, in chunks of ``burst`` tokens.

    With ``num_draft_tokens`` 0 each chunk has one token. ``first`` and ``gap`` are the delays in seconds
    of the first and of each further chunk; ``accepted`` of the drafted tokens are counted as accepted.
    """
    total = request.inputs["max_tokens"]
    drafted = 0 if request.inputs.get("num_draft_tokens") == 0 else max(1, round((burst - 1) / accepted))
    size = burst if drafted else 1
    start = sum(request.prompt.encode())
    for round_, done in enumerate(range(0, total, size), 1):
        ids = [(start + position) % 1000 for position in range(done, min(done + size, total))]
        yield Say(
            text="".join(f"w{token} " for token in ids),
            token_ids=ids,
            after=gap if done else first,
            final=done + size >= total,
            finish_reason="length" if done + size >= total else "",
            counters=Counters(
                num_input_tokens=len(request.prompt.split()),
                num_output_tokens=done + len(ids),
                num_rounds=round_,
                total_draft_tokens=drafted * round_,
                total_accepted_draft_tokens=(size - 1) * round_,
            ),
        )


class FakeServer:
    """Serves until closed. ``requests`` has what came in, in order of arrival."""

    def __init__(
        self,
        respond: Respond = words,
        *,
        model: str = protocol.FRONT_MODEL,
        port: int = 0,
        http_port: int = 0,
        max_streams: int = 256,
        tls: Tls | None = None,
        contract: Contract | None = None,
        token: str | None = None,
    ) -> None:
        """``tls`` is the server's own key and chain; with root certificates it demands a client's.

        With ``token``, requests need it as their bearer token.
        """
        self.respond = respond
        self.model = model
        self.contract = contract or Contract()
        self.token = token
        self.ready = True
        self.requests: list[Received] = []
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_streams, thread_name_prefix="fake-server"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)],
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_insecure_port(address)
            if tls is None
            else self._server.add_secure_port(address, _credentials(tls))
        )
        self.url = f"127.0.0.1:{self.port}"
        self._http = HttpFront(self, http_port, tls)
        self.http_url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> FakeServer:
        self._server.start()
        self._http.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Break every stream and give the ports back."""
        self._server.stop(grace=None).wait()
        self._http.stop()

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers has the bearer token."""
        return self.token is None or headers.get("authorization") == f"Bearer {self.token}"

    def metadata(self) -> dict[str, Any]:
        """What the model says about itself, as the JSON of Triton's HTTP."""
        return {
            "name": self.model,
            "versions": ["1"],
            "platform": "fake",
            "inputs": [{"name": name} for name in sorted(self.contract.inputs)],
            "outputs": [{"name": name} for name in sorted(self.contract.outputs)],
        }

    def _handlers(self) -> Any:
        unary = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=getattr(service_pb2, f"{name}Request").FromString,
                response_serializer=getattr(service_pb2, f"{name}Response").SerializeToString,
            )
            for name, method in unary.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=service_pb2.ModelInferRequest.FromString,
            response_serializer=service_pb2.ModelStreamInferResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(grpc_methods.SERVICE.strip("/"), handlers)

    def _server_live(self, _request: Any, _context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def _server_ready(self, _request: Any, _context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def _model_ready(self, request: Any, _context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=self.ready and request.name == self.model)

    def _server_metadata(self, _request: Any, _context: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name="fake", version="0")

    def _model_metadata(self, request: Any, context: Any) -> Any:
        self._require_known(request.name, context)
        tensors = service_pb2.ModelMetadataResponse.TensorMetadata
        described = self.metadata()
        return service_pb2.ModelMetadataResponse(
            name=self.model,
            versions=described["versions"],
            platform=described["platform"],
            inputs=[tensors(**tensor) for tensor in described["inputs"]],
            outputs=[tensors(**tensor) for tensor in described["outputs"]],
        )

    def _model_config(self, request: Any, context: Any) -> Any:
        self._require_known(request.name, context)
        response = service_pb2.ModelConfigResponse()
        response.config.name = self.model
        response.config.model_transaction_policy.decoupled = self.contract.decoupled
        accumulates = str(self.contract.accumulates).lower()
        response.config.parameters["accumulate_tokens"].string_value = accumulates
        return response

    def _require_known(self, model: str, context: Any) -> None:
        self._require_token(context)
        if model != self.model:
            context.abort(grpc.StatusCode.NOT_FOUND, unknown(model))
        if not self.ready:
            context.abort(grpc.StatusCode.UNAVAILABLE, not_ready(model))

    def _require_token(self, context: Any) -> None:
        if not self.admits(dict(context.invocation_metadata())):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no or wrong bearer token")

    def _stream(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for message in requests:
            yield from self._serve(message, context)

    def _serve(self, message: Any, context: Any) -> Iterator[Any]:
        self._require_token(context)
        received = _received(message, dict(context.invocation_metadata()))
        ended = threading.Event()

        def terminated() -> None:
            if not ended.is_set():
                received.cancelled.set()

        context.add_callback(terminated)
        said = Counters()
        try:
            for step in self.play(received, received.cancelled.wait):
                if isinstance(step, Fail) and step.code:
                    context.abort(grpc.StatusCode[step.code], step.message)
                said = counted(step, said)
                yield self._message(received, step, said)
        finally:
            ended.set()

    def play(self, received: Received, cancelled: Callable[[float | None], bool]) -> Iterator[Step]:
        """The steps of an answer, each when it is due, up to its end.

        ``cancelled`` waits for so many seconds, or for ever, and says whether the client has left.
        """
        self.requests.append(received)
        error = self._refusal(received)
        steps: Iterable[Step] = [Fail(error, code="")] if error else self.respond(received)
        due = time.monotonic()
        for step in steps:
            due += 0.0 if isinstance(step, Hang) else step.after
            # One event is enough to wait for: closing the server cancels its streams.
            if cancelled(None if isinstance(step, Hang) else max(0.0, due - time.monotonic())):
                received.cancelled.set()
                return
            yield step
            if isinstance(step, Fail):
                return

    def _refusal(self, received: Received) -> str | None:
        """What Triton says about a request that it does not hand to the model."""
        if received.model != self.model:
            return unknown(received.model)
        if not self.ready:
            return not_ready(received.model)
        for name in received.inputs:
            if name not in self.contract.inputs:
                return f"unexpected inference input '{name}' for model '{self.model}'"
        return None

    def _message(self, received: Received, step: Step, counters: Counters) -> Any:
        response = service_pb2.ModelStreamInferResponse()
        answer = response.infer_response
        answer.id, answer.model_name = received.id, received.model
        if isinstance(step, Fail):
            response.error_message = step.message
            return response
        if self.contract.decoupled:
            answer.parameters["triton_final_response"].bool_param = is_final(step)
        for name, values in self.outputs(step, counters).items():
            datatype = protocol.OUTPUTS[name].datatype
            answer.outputs.add(name=name, datatype=datatype, shape=[1, len(values)])
            answer.raw_output_contents.append(stream.pack(datatype, values))
        return response

    def outputs(self, step: Step, counters: Counters) -> dict[str, Sequence[Any]]:
        """The tensors of a response, as far as the model has them."""
        if not isinstance(step, Say):
            return {}
        reason = step.finish_reason or ("stop" if step.final else "")
        tensors: dict[str, Sequence[Any]] = {
            "text_output": [step.text if isinstance(step.text, bytes) else step.text.encode()],
            "output_ids": step.token_ids,
            "output_log_probs": step.log_probs,
            "finish_reason": [reason.encode()],
            "num_input_tokens": [counters.num_input_tokens],
            "num_output_tokens": [counters.num_output_tokens],
            "num_rounds": [counters.num_rounds],
            "total_draft_tokens": [counters.total_draft_tokens],
            "total_accepted_draft_tokens": [counters.total_accepted_draft_tokens],
        }
        return {name: values for name, values in tensors.items() if name in self.contract.outputs}


def is_final(step: Step) -> bool:
    """Whether nothing follows ``step`` in the answer."""
    return isinstance(step, EmptyFinal) or (isinstance(step, Say) and step.final)


def counted(step: Step, before: Counters) -> Counters:
    """The counters that go with ``step``."""
    if not isinstance(step, Say):
        return before
    return step.counters or Counters(
        num_output_tokens=before.num_output_tokens + len(step.token_ids), num_rounds=before.num_rounds + 1
    )


def _credentials(tls: Tls) -> Any:
    roots, key, chain = tls.read()
    return grpc.ssl_server_credentials([(key, chain)], roots, require_client_auth=roots is not None)


def unknown(model: str) -> str:
    """Triton's words."""
    return f"Request for unknown model: '{model}' is not found"


def not_ready(model: str) -> str:
    """Triton's words."""
    return f"Request for unknown model: '{model}' has no available versions"


def _received(message: Any, headers: Mapping[str, str]) -> Received:
    inputs: dict[str, Any] = {}
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        values = stream.unpack(tensor.datatype, raw)
        if tensor.datatype == "BYTES":
            values = tuple(value.decode("utf-8", "replace") for value in values)
        inputs[tensor.name] = values[0] if is_scalar(tensor.name) else values
    return Received(message.id, message.model_name, str(inputs.get("text_input", "")), inputs, headers)


def is_scalar(name: str) -> bool:
    """Whether an input has one element."""
    return (protocol.INPUTS | protocol.STOCK_INPUTS).get(name, protocol.INPUTS["stop_words"]).shape == (1,)
