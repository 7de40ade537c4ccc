# SPDX-License-Identifier: Apache-2.0
"""Both clients over a real gRPC connection to a server that behaves in every way a server can."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

import specclient as sc
from specclient.contract import Contract
from specclient.testing import EmptyFinal, Fail, FakeServer, Hang, Received, Say, Step, words
from support import endpoints

CLIENT_OPTIONS = {"model", "retry", "tls", "headers", "token", "keepalive", "timeout", "chat_template"}


@dataclass(frozen=True)
class Generate:
    """``generate`` of a fresh client: blocking or asyncio, over gRPC or HTTP."""

    api: str
    protocol: str

    def url(self, server: FakeServer | str) -> str:
        """Where the server is in this protocol; a string is host:port."""
        if isinstance(server, FakeServer):
            return at(server, self.protocol)
        return server if self.protocol == "grpc" or server.startswith("http") else f"http://{server}"

    def __call__(self, server: FakeServer | str, prompt: Any = "hi", **options: Any) -> sc.Completion:
        client = {name: options.pop(name) for name in CLIENT_OPTIONS & options.keys()}
        if self.api == "sync":
            with sc.SpecClient(self.url(server), **client) as blocking:
                return blocking.generate(prompt, **options)

        async def run() -> sc.Completion:
            async with sc.AsyncSpecClient(self.url(server), **client) as client_:
                return await client_.generate(prompt, **options)

        return asyncio.run(run())


@pytest.fixture(params=["sync-grpc", "async-grpc", "sync-http", "async-http"])
def generate(request: pytest.FixtureRequest) -> Generate:
    return Generate(*request.param.split("-"))


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    """For tests of one API over both protocols."""
    return str(request.param)


def at(server: FakeServer, protocol: str) -> str:
    return server.url if protocol == "grpc" else server.http_url


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


ONCE = sc.Retry(attempts=1)


def saying(*steps: Step) -> Callable[[Received], list[Step]]:
    return lambda _request: list(steps)


# --- answers ---


def test_an_answer_comes_whole_with_its_figures(server: FakeServer, generate: Generate) -> None:
    server.respond = functools.partial(words, burst=4)
    answer = generate(server, "a prompt", max_tokens=10, request_id="mine")
    assert answer.request_id == "mine" == server.requests[0].id
    assert len(answer.token_ids) == 10 == answer.output_tokens
    assert answer.text == "".join(f"w{token} " for token in answer.token_ids)
    assert (answer.finish_reason, len(answer.chunks), answer.attempts) == ("length", 3, 1)
    assert (answer.acceptance_length, answer.draft_acceptance_rate) == (4.0, 1.0)
    assert answer.ttft is not None and answer.latency is not None and answer.tpot is not None
    assert 0 < answer.ttft <= answer.latency


def test_the_final_flag_may_come_with_the_last_content_or_alone(
    server: FakeServer, generate: Generate
) -> None:
    server.respond = saying(Say("a", (1,)), Say("b", (2,), final=True))
    assert generate(server).text == "ab"
    server.respond = saying(Say("a", (1,)), Say("b", (2,)), EmptyFinal())
    assert generate(server).text == "ab"


def test_a_character_cut_in_two_arrives_whole(server: FakeServer, generate: Generate) -> None:
    smile = "😀".encode()
    server.respond = saying(Say(smile[:3], (1,)), Say(smile[3:], (2,)), EmptyFinal())
    answer = generate(server)
    assert [chunk.text for chunk in answer.chunks] == ["", "😀"]


def test_bytes_that_are_no_text_never_reach_the_caller(server: FakeServer, generate: Generate) -> None:
    server.respond = saying(Say(b"ok \xff\xfe", (1,)), Say(b"\xed\xa0\x80", (2,), final=True))
    generate(server).text.encode("utf-8")


def test_what_the_caller_says_is_what_the_server_gets(server: FakeServer, generate: Generate) -> None:
    generate(server, "naïve 😀", max_tokens=3, temperature=0.5, num_draft_tokens=4, stop=("x", "é"))
    inputs = server.requests[0].inputs
    assert inputs["text_input"] == "naïve 😀"
    assert (inputs["temperature"], inputs["top_p"], inputs["num_draft_tokens"]) == (0.5, 1.0, 4)
    assert inputs["stop_words"] == ("x", "é")
    asks_for_codes = server.requests[0].headers.get("triton_grpc_error") == "true"
    assert asks_for_codes == (generate.protocol == "grpc")


def test_headers_are_sent_with_every_request(server: FakeServer, generate: Generate) -> None:
    generate(server, headers={"Authorization": "Bearer t"})
    assert server.requests[0].headers["authorization"] == "Bearer t"


# --- errors ---


@pytest.mark.parametrize(
    ("steps", "error", "text"),
    [
        ([Fail("max_tokens: too many", "INVALID_ARGUMENT")], sc.InvalidRequest, ""),
        ([Fail("[request id: r] Exceeds maximum queue size", "UNAVAILABLE")], sc.QueueFull, ""),
        ([Fail("Exceeds maximum queue size", "")], sc.QueueFull, ""),
        ([Fail("out of memory", "INTERNAL")], sc.ServerFailure, ""),
        ([Say("part", (1,)), Fail("out of memory", "INTERNAL")], sc.ServerFailure, "part"),
        ([Say("part", (1,)), Fail("the client has gone", "CANCELLED")], sc.ServerFailure, "part"),
        ([Say("part", (1,)), Fail("Socket closed", "UNAVAILABLE")], sc.IncompleteStream, "part"),
        ([Say("part", (1,)), Say(" more", (2,))], sc.IncompleteStream, "part more"),
        ([], sc.IncompleteStream, ""),
    ],
)
def test_a_failing_server_gives_a_typed_error_with_the_text_so_far(
    server: FakeServer,
    generate: Generate,
    steps: list[Step],
    error: type[sc.SpecClientError],
    text: str,
) -> None:
    server.respond = saying(*steps)
    if generate.protocol == "http" and not steps:
        error = sc.ConnectError  # a body that does not end, instead of a stream that ends well
    with pytest.raises(error) as caught:
        generate(server, retry=ONCE, request_id="r7")
    assert type(caught.value) is error
    url = generate.url(server)
    assert (caught.value.text, caught.value.endpoint, caught.value.request_id) == (text, url, "r7")
    assert url in str(caught.value)
    server.respond = words
    assert generate(server, max_tokens=1).text


@pytest.mark.parametrize(
    ("timeout", "steps", "error", "text"),
    [
        ({"first_token": 0.2}, [Hang()], sc.FirstTokenTimeout, ""),
        ({"idle": 0.2}, [Say("a", (1,)), Hang()], sc.IdleTimeout, "a"),
        ({"total": 0.2}, [Say("a", (1,)), Hang()], sc.TotalTimeout, "a"),
        ({"total": 0.3, "idle": 0.2}, [Say("a", (1,), after=0.05)] * 100, sc.TotalTimeout, None),
    ],
)
def test_each_deadline_has_its_own_error_and_cancels_on_the_server(
    server: FakeServer,
    generate: Generate,
    timeout: dict[str, float],
    steps: list[Step],
    error: type[sc.SpecClientError],
    text: str | None,
) -> None:
    server.respond = saying(*steps)
    start = time.monotonic()
    with pytest.raises(error) as caught:
        generate(server, timeout=sc.Timeout(**timeout))
    assert type(caught.value) is error
    assert max(timeout.values()) <= time.monotonic() - start + 0.01
    assert time.monotonic() - start < 5
    assert text is None or caught.value.text == text
    assert server.requests[0].cancelled.wait(5)


def test_a_model_that_is_not_ready_is_its_own_error_and_tried_again(
    server: FakeServer, generate: Generate
) -> None:
    server.ready = False
    with pytest.raises(sc.ModelNotReady):
        generate(server, retry=ONCE)
    soon = threading.Timer(0.3, setattr, (server, "ready", True))
    soon.start()
    answer = generate(server, max_tokens=1, retry=sc.Retry(attempts=100, reserve=100))
    soon.join()
    assert answer.attempts > 1


def test_a_bearer_token_opens_what_it_guards(generate: Generate) -> None:
    with FakeServer(token="t0k3n") as server:
        assert generate(server, token="t0k3n", max_tokens=1).text
        for token in (None, "0ther"):
            with pytest.raises(sc.AccessDenied) as caught:
                generate(server, token=token)
            assert "0ther" not in str(caught.value)


def test_keep_alive_changes_nothing_that_is_seen(server: FakeServer, generate: Generate) -> None:
    keepalive = sc.KeepAlive(interval=300, without_requests=True)
    assert generate(server, keepalive=keepalive, max_tokens=2).output_tokens == 2


def test_messages_are_sent_through_the_template(server: FakeServer, generate: Generate) -> None:
    template = sc.ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    generate(server, [{"role": "user", "content": "hi"}], chat_template=template, max_tokens=1)
    assert server.requests[0].prompt == "[user]hi"
    with pytest.raises(sc.InvalidRequest, match="chat template"):
        generate(server, [{"role": "user", "content": "hi"}])


def test_a_model_that_cannot_stream_answers_whole(generate: Generate) -> None:
    plain = Contract(decoupled=False)
    with FakeServer(saying(Say("all", (1, 2), final=True)), contract=plain) as server:
        answer = generate(server)
        assert (answer.text, len(answer.chunks)) == ("all", 1)
        assert server.requests[0].inputs["stream"] is False
        with pytest.raises(sc.ModelNotFound):
            generate(server, model="other")
        server.respond = saying(Fail("out of memory"))
        with pytest.raises(sc.ServerFailure):
            generate(server)


def test_a_request_that_found_its_connection_closed_is_sent_on_a_new_one() -> None:
    """A server that restarts between two requests is not the second one's fault, even without retries."""
    first = FakeServer()
    with sc.SpecClient(first.http_url, retry=ONCE) as client:
        with first:
            assert client.generate("hi", max_tokens=1).text
        with FakeServer(http_port=int(first.http_url.rsplit(":", 1)[1])):
            assert client.generate("hi", max_tokens=1).text


def test_wrong_model_is_its_own_error(server: FakeServer, generate: Generate) -> None:
    with pytest.raises(sc.ModelNotFound, match="no-such"):
        generate(server, model="no-such")


def test_a_closed_port_a_web_server_and_an_unknown_host_cannot_be_connected_to(generate: Generate) -> None:
    with endpoints.web_server() as web:
        for url in (f"127.0.0.1:{endpoints.free_port()}", web, "no-such-host.invalid:8001"):
            with pytest.raises(sc.ConnectError) as caught:
                generate(url, retry=ONCE, timeout=sc.Timeout(connect=3))
            assert caught.value.endpoint == generate.url(url)


def test_a_host_that_says_nothing_runs_into_a_timeout(generate: Generate) -> None:
    # Over HTTP the connection exists once TCP says so; the silence is the first token's.
    expected = sc.ConnectTimeout if generate.protocol == "grpc" else sc.FirstTokenTimeout
    start = time.monotonic()
    with endpoints.mute() as url, pytest.raises(expected):
        generate(url, retry=ONCE, timeout=sc.Timeout(connect=0.5, first_token=1))
    assert time.monotonic() - start < 5


def test_a_server_killed_in_mid_stream_gives_incomplete_stream(generate: Generate) -> None:
    with endpoints.child_server() as (urls, process):
        killer = threading.Timer(0.5, process.send_signal, (signal.SIGKILL,))
        killer.start()
        with pytest.raises(sc.IncompleteStream) as caught:
            generate(urls[generate.protocol], timeout=sc.Timeout(idle=20))
        killer.join()
    assert caught.value.text == "before "


def test_a_stopped_server_runs_into_a_deadline(generate: Generate) -> None:
    with endpoints.child_server() as (urls, process):
        process.send_signal(signal.SIGSTOP)
        with pytest.raises((sc.ConnectTimeout, sc.FirstTokenTimeout)):
            generate(urls[generate.protocol], retry=ONCE, timeout=sc.Timeout(connect=0.5, first_token=1))


@pytest.mark.parametrize("prompt", ["", "\ud800"])
def test_a_prompt_that_is_no_text_is_refused_before_sending(
    server: FakeServer, generate: Generate, prompt: str
) -> None:
    with pytest.raises(sc.InvalidRequest) as caught:
        generate(server, prompt, request_id="r")
    assert (caught.value.endpoint, caught.value.request_id) == (generate.url(server), "r")
    assert server.requests == []


def test_nothing_of_grpc_leaks(server: FakeServer, generate: Generate) -> None:
    """Whatever status a server invents, the error is ours, and the original is its cause."""
    for code in ("ABORTED", "DATA_LOSS", "UNKNOWN", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "UNIMPLEMENTED"):
        server.respond = saying(Fail("strange", code))
        with pytest.raises(sc.SpecClientError) as caught:
            generate(server, retry=ONCE)
        assert generate.protocol == "http" or caught.value.__cause__ is not None


# --- retries ---


def flaky(failures: int, *failure: Step) -> Callable[[Received], list[Step]]:
    """Fails so many times, then answers."""
    left = iter([True] * failures)
    return lambda _request: list(failure) if next(left, False) else [Say("fine", (1,), final=True)]


def test_a_full_queue_is_tried_again(server: FakeServer, generate: Generate) -> None:
    server.respond = flaky(2, Fail("Exceeds maximum queue size", "UNAVAILABLE"))
    answer = generate(server, retry=sc.Retry(attempts=3, base=0.01))
    assert (answer.text, answer.attempts, len(server.requests)) == ("fine", 3, 3)
    assert len({request.id for request in server.requests}) == 1


def test_nothing_is_sent_again_after_a_token(server: FakeServer, generate: Generate) -> None:
    server.respond = flaky(1, Say("part", (1,)), Fail("Exceeds maximum queue size", "UNAVAILABLE"))
    with pytest.raises(sc.SpecClientError) as caught:
        generate(server, retry=sc.Retry(attempts=5, base=0.01))
    assert (caught.value.text, len(server.requests)) == ("part", 1)


def test_an_invalid_request_is_not_sent_again(server: FakeServer, generate: Generate) -> None:
    server.respond = flaky(1, Fail("top_p: 2", "INVALID_ARGUMENT"))
    with pytest.raises(sc.InvalidRequest):
        generate(server, retry=sc.Retry(attempts=5, base=0.01))
    assert len(server.requests) == 1


def test_the_total_timeout_covers_all_attempts(server: FakeServer, generate: Generate) -> None:
    server.respond = saying(Fail("Exceeds maximum queue size", "UNAVAILABLE", after=0.1))
    start = time.monotonic()
    with pytest.raises((sc.QueueFull, sc.TotalTimeout)):
        generate(
            server,
            retry=sc.Retry(attempts=1000, base=0.01, reserve=1000),
            timeout=sc.Timeout(total=0.5),
        )
    assert 0.3 < time.monotonic() - start < 5


def test_a_client_survives_a_restart_of_the_server() -> None:
    first = FakeServer()
    with sc.SpecClient(first.url, retry=sc.Retry(attempts=20, reserve=20)) as client:
        with first:
            assert client.generate("hi", max_tokens=1).text
        with FakeServer(port=first.port):
            assert client.generate("hi", max_tokens=1).text


# --- TLS ---


@pytest.fixture
def tls_server(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    mutual = endpoints.TLS / "ca.pem" if getattr(request, "param", None) == "mutual" else None
    tls = sc.Tls(
        root_certificates=mutual,
        private_key=endpoints.TLS / "server.key",
        certificate_chain=endpoints.TLS / "server.pem",
    )
    with FakeServer(tls=tls) as server:
        yield server


def test_tls_connects_to_a_trusted_server_only(tls_server: FakeServer, generate: Generate) -> None:
    trusting = sc.Tls(root_certificates=endpoints.TLS / "ca.pem")
    assert generate(tls_server, tls=trusting, max_tokens=1).text
    with pytest.raises(sc.TlsError) as caught:
        generate(tls_server, tls=sc.Tls())
    assert "tls=" in caught.value.remedy


def test_a_plain_client_at_a_tls_server_and_the_reverse_are_connect_errors(
    server: FakeServer, tls_server: FakeServer, generate: Generate
) -> None:
    plain, secure = generate.url(server), generate.url(tls_server)
    for url, tls in ((secure.replace("https", "http"), None), (plain.replace("http", "https"), sc.Tls())):
        with pytest.raises(sc.ConnectError) as caught:
            generate(url, tls=tls, retry=ONCE)
        assert "TLS" in caught.value.remedy
        assert tls is None or isinstance(caught.value, sc.TlsError)


@pytest.mark.parametrize("tls_server", ["mutual"], indirect=True)
def test_mutual_tls_needs_the_clients_certificate(tls_server: FakeServer, generate: Generate) -> None:
    roots = endpoints.TLS / "ca.pem"
    both = sc.Tls(
        root_certificates=roots,
        private_key=endpoints.TLS / "client.key",
        certificate_chain=endpoints.TLS / "client.pem",
    )
    assert generate(tls_server, tls=both, max_tokens=1).text
    with pytest.raises(sc.ConnectError):
        generate(tls_server, tls=sc.Tls(root_certificates=roots), retry=ONCE)


# --- streaming, cancelling, closing ---


def test_chunks_arrive_as_they_are_said(protocol: str) -> None:
    """The second chunk is said only after the first was received."""
    go = threading.Event()

    def respond(_request: Received) -> Iterator[Step]:
        yield Say("one ", (1,))
        assert go.wait(10)
        yield Say("two", (2,), final=True)

    with FakeServer(respond) as server, sc.SpecClient(at(server, protocol)) as client:
        stream = client.stream("hi")
        assert next(stream).text == "one "
        go.set()
        assert [chunk.text for chunk in stream] == ["two"]
        assert stream.completion().text == "one two"


def test_leaving_the_stream_cancels_on_the_server(server: FakeServer, protocol: str) -> None:
    server.respond = saying(Say("a", (1,)), Hang())
    with sc.SpecClient(at(server, protocol)) as client:
        with client.stream("hi") as stream:
            next(stream)
        assert server.requests[0].cancelled.wait(5)
        for _ in client.stream("hi"):
            break
        assert server.requests[1].cancelled.wait(5)


async def test_leaving_an_async_stream_or_cancelling_its_task_cancels_on_the_server(
    server: FakeServer,
    protocol: str,
) -> None:
    server.respond = saying(Say("a", (1,)), Hang())
    async with sc.AsyncSpecClient(at(server, protocol)) as client:
        async with client.stream("hi") as stream:
            async for _ in stream:
                break
        assert await asyncio.to_thread(server.requests[0].cancelled.wait, 5)
        started = asyncio.Event()

        async def consume() -> None:
            async for _ in client.stream("hi"):
                started.set()

        task = asyncio.ensure_future(consume())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.requests[1].cancelled.wait, 5)


def test_another_thread_may_close_a_stream_that_waits(server: FakeServer, protocol: str) -> None:
    server.respond = saying(Say("a", (1,)), Hang())
    with sc.SpecClient(at(server, protocol)) as client:
        stream = client.stream("hi")
        next(stream)
        threading.Timer(0.2, stream.close).start()
        with pytest.raises(sc.ClientClosed) as caught:
            next(stream)
        assert caught.value.text == "a"


def test_closing_the_client_ends_what_waits_and_refuses_what_follows(
    server: FakeServer, protocol: str
) -> None:
    server.respond = saying(Say("a", (1,)), Hang())
    client = sc.SpecClient(at(server, protocol))
    stream = client.stream("hi")
    next(stream)
    threading.Timer(0.2, client.close).start()
    with pytest.raises(sc.ClientClosed):
        next(stream)
    for use in (lambda: client.generate("hi"), client.is_ready, client.metadata):
        with pytest.raises(sc.ClientClosed):
            use()
    client.close()


async def test_an_async_client_is_refused_after_closing_and_in_another_loop(
    server: FakeServer, protocol: str
) -> None:
    client = sc.AsyncSpecClient(at(server, protocol))
    await client.generate("hi", max_tokens=1)

    def elsewhere() -> None:
        asyncio.run(client.generate("hi", max_tokens=1))  # type: ignore[arg-type]

    with pytest.raises(sc.ClientClosed, match="another event loop"):
        await asyncio.to_thread(elsewhere)
    await client.close()
    with pytest.raises(sc.ClientClosed):
        await client.generate("hi")


async def test_closing_an_async_client_ends_what_waits(server: FakeServer, protocol: str) -> None:
    server.respond = saying(Say("a", (1,)), Hang())
    client = sc.AsyncSpecClient(at(server, protocol))
    stream = client.stream("hi")
    await anext(stream)
    asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(client.close()))
    with pytest.raises(sc.ClientClosed):
        await anext(stream)


def _use_in_child(client: sc.SpecClient, outcome: Any) -> None:
    try:
        client.generate("hi")
    except sc.ClientClosed as error:
        outcome.put(error.message)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_cannot_use_its_parents_client() -> None:
    fork = multiprocessing.get_context("fork")
    client = sc.SpecClient("127.0.0.1:1")  # not connected: gRPC itself survives this fork
    outcome = fork.Queue()
    child = fork.Process(target=_use_in_child, args=(client, outcome))
    child.start()
    try:
        assert "another process" in outcome.get(timeout=20)
    finally:
        child.join(20)
        client.close()


def test_a_slow_reader_is_not_mistaken_for_a_silent_server(server: FakeServer, protocol: str) -> None:
    server.respond = saying(Say("a", (1,)), Say("b", (2,)), Say("c", (3,), final=True))
    with sc.SpecClient(at(server, protocol), timeout=sc.Timeout(idle=0.1)) as client:
        text = ""
        for chunk in client.stream("hi"):
            text += chunk.text
            threading.Event().wait(0.3)
    assert text == "abc"


# --- many at a time ---


def test_threads_share_a_client_without_mixing_answers(server: FakeServer, protocol: str) -> None:
    server.respond = functools.partial(words, burst=3)

    def ask(number: int) -> bool:
        answer = client.generate(
            f"prompt {number}" * (1 + number % 3), max_tokens=12, request_id=f"r{number}"
        )
        first = sum((f"prompt {number}" * (1 + number % 3)).encode()) % 1000
        return (
            answer.request_id == f"r{number}" and answer.token_ids[0] == first and len(answer.token_ids) == 12
        )

    with sc.SpecClient(at(server, protocol)) as client, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))


async def test_two_hundred_streams_at_a_time_come_back_to_their_callers(
    server: FakeServer, protocol: str
) -> None:
    server.respond = functools.partial(words, first=0.1, gap=0.02, burst=3)
    async with sc.AsyncSpecClient(at(server, protocol)) as client:
        prompts = [f"prompt {number}" for number in range(200)]
        answers = await asyncio.gather(*(client.generate(prompt, max_tokens=9) for prompt in prompts))
    assert [answer.token_ids[0] for answer in answers] == [sum(p.encode()) % 1000 for p in prompts]


# --- inspection ---


def test_readiness_follows_the_server(server: FakeServer, protocol: str) -> None:
    with sc.SpecClient(at(server, protocol)) as client, sc.SpecClient(at(server, protocol), "other") as other:
        assert client.is_ready() and not other.is_ready()
        assert client.is_live() and other.is_live()
        server.ready = False
        assert not client.is_ready() and client.is_live()
    with sc.SpecClient(f"127.0.0.1:{endpoints.free_port()}") as nobody:
        assert not nobody.is_ready()
        with pytest.raises(sc.ConnectError):
            nobody.metadata()


async def test_metadata_names_server_and_model(server: FakeServer, protocol: str) -> None:
    async with sc.AsyncSpecClient(at(server, protocol)) as client:
        assert await client.is_ready()
        metadata = await client.metadata()
    with sc.SpecClient(at(server, protocol)) as same:
        assert same.metadata() == metadata
    assert (metadata.server_name, metadata.model) == ("fake", "ensemble")
    assert {"text_input", "num_draft_tokens"} <= set(metadata.inputs)
    with sc.SpecClient(at(server, protocol), "other") as other, pytest.raises(sc.ModelNotFound):
        other.metadata()


def test_the_log_never_holds_a_prompt(
    server: FakeServer, generate: Generate, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        generate(server, "a secret prompt", max_tokens=2)
        server.respond = saying(Fail("boom"))
        with pytest.raises(sc.ServerFailure):
            generate(server, "a secret prompt")
    assert "secret" not in caplog.text
