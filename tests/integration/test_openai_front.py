# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own client against the front, over the fake server and over a real Triton."""

from __future__ import annotations

import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import yaml

from specbuild import cli, openai_front
from specbuild.openai_front import Deployment
from specclient.testing import Fail, FakeServer, Hang, Received, Say, Step, words
from support import deployment
from support.waiting import until

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    deployment.tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer(functools.partial(words, burst=3)) as server:
        yield server


@pytest.fixture
def front(fake: FakeServer, tokenizer: Path) -> Iterator[str]:
    with (
        openai_front.bind("127.0.0.1", 0) as bound,
        openai_front.running(Deployment("tiny", fake.url, 100, tokenizer), bound) as running,
    ):
        yield running.url


@pytest.fixture
def client(front: str) -> Iterator[openai.OpenAI]:
    with connect(front) as client:
        yield client


def connect(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=30)


def chat(client: openai.OpenAI, messages: Any = USER, **fields: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=messages, **fields)


def complete(client: openai.OpenAI, prompt: Any = "hi", **fields: Any) -> Any:
    return client.completions.create(model="tiny", prompt=prompt, **fields)


# --- answers ---


def test_a_completion_has_text_reason_counts_and_the_figures_of_speculation(client: openai.OpenAI) -> None:
    answer = complete(client, max_tokens=6)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-") and answer.model == "tiny"
    (choice,) = answer.choices
    assert (choice.text.split()[0], choice.finish_reason) == ("w209", "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        1,
        6,
        7,
    )
    assert answer.usage.speculation == {
        "rounds": 2,
        "draft_tokens": 4,
        "accepted_draft_tokens": 4,
        "acceptance_length": 3.0,
        "draft_acceptance_rate": 1.0,
    }


def test_without_max_tokens_a_completion_has_sixteen(client: openai.OpenAI) -> None:
    assert complete(client).usage.completion_tokens == 16


def test_chat_goes_through_the_models_template_and_fills_the_context(
    client: openai.OpenAI, fake: FakeServer
) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    answer = chat(client, [{"role": "system", "content": "short"}, {"role": "user", "content": parts}])
    prompt = "<system>short\n<user>hi\n<assistant>"
    assert fake.requests[0].prompt == prompt
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert fake.requests[0].inputs["max_tokens"] == 100 - len(prompt)  # a byte is a token here
    chat(client, max_tokens=3, max_completion_tokens=2)
    assert fake.requests[1].inputs["max_tokens"] == 2


def test_a_stream_ends_with_its_usage(client: openai.OpenAI) -> None:
    whole = chat(client, max_tokens=7).choices[0].message.content
    *pieces, last = chat(client, max_tokens=7, stream=True, stream_options={"include_usage": True})
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole
    assert [piece.choices[0].finish_reason for piece in pieces][-2:] == [None, "length"]
    assert all(piece.usage is None for piece in pieces)
    assert (last.choices, last.usage.completion_tokens) == ([], 7)
    assert last.usage.speculation["acceptance_length"] == pytest.approx(3.0)
    assert len({piece.id for piece in [*pieces, last]}) == 1
    plain = list(complete(client, max_tokens=4, stream=True))
    assert all(piece.usage is None and piece.choices for piece in plain)


def test_several_answers_and_prompts_come_in_order(client: openai.OpenAI, fake: FakeServer) -> None:
    answer = complete(client, ["a", "b"], n=2, max_tokens=2, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text.split()[0] for choice in answer.choices] == ["w97", "w97", "w98", "w98"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 8)
    seeds = sorted(request.inputs["seed"] for request in fake.requests)
    assert seeds == [5, 5, 6, 6]
    streamed = list(chat(client, n=3, max_tokens=4, stream=True))
    assert {piece.choices[0].index for piece in streamed} == {0, 1, 2}


def test_every_parameter_reaches_the_server(client: openai.OpenAI, fake: FakeServer) -> None:
    complete(
        client,
        max_tokens=2,
        temperature=0.5,
        top_p=0.25,
        seed=-1,
        stop=["zz"],
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        user="somebody",
        extra_body={
            "top_k": 4,
            "min_tokens": 1,
            "repetition_penalty": 1.5,
            "bad_words": ["b"],
            "num_draft_tokens": 0,
        },
    )
    inputs = fake.requests[0].inputs
    assert {
        name: inputs[name] for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty")
    } == {
        "temperature": 0.5,
        "top_p": 0.25,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }
    assert (inputs["seed"], inputs["stop_words"], inputs["bad_words"]) == (2**64 - 1, ("zz",), ("b",))
    assert (inputs["top_k"], inputs["min_tokens"], inputs["num_draft_tokens"]) == (4, 1, 0)
    assert inputs["repetition_penalty"] == 1.5
    complete(client, max_tokens=1)
    assert fake.requests[1].inputs["temperature"] == 1.0  # OpenAI's default, not this server's


def test_a_stop_text_ends_the_answer_and_the_servers_work(client: openai.OpenAI, fake: FakeServer) -> None:
    fake.respond = lambda _request: iter(
        [Say("one E", (1,)), Say("ND two", (2,)), *[Say("more", (3,), after=0.05)] * 200]
    )
    answer = complete(client, stop="END")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one ", "stop")
    assert fake.requests[0].cancelled.wait(5)
    streamed = list(chat(client, stop=["END"], stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in streamed) == "one "
    assert streamed[-1].choices[0].finish_reason == "stop"


def test_log_probs_name_the_chosen_tokens(client: openai.OpenAI, fake: FakeServer) -> None:
    tokens = deployment.tokenizer()
    ids = [tokens.token_to_id("n"), tokens.token_to_id("Ã©")]  # the byte-level spelling of é
    fake.respond = lambda _request: iter(
        [Say("né", tuple(ids), log_probs=[-0.5, -0.25], final=True, finish_reason="stop")]
    )
    content = chat(client, logprobs=True).choices[0].logprobs.content
    assert [(one.token, one.logprob, one.bytes) for one in content] == [
        ("n", -0.5, [110]),
        ("é", -0.25, [195, 169]),
    ]
    legacy = complete(client, logprobs=0).choices[0].logprobs
    assert (legacy.tokens, legacy.token_logprobs, legacy.text_offset) == (["n", "é"], [-0.5, -0.25], [0, 1])
    assert fake.requests[0].inputs["return_log_probs"] is True
    (_, piece) = chat(client, logprobs=True, stream=True)
    assert [one.token for one in piece.choices[0].logprobs.content] == ["n", "é"]


def test_models_and_health(client: openai.OpenAI, front: str, fake: FakeServer) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    assert get(front, "/health") == 200
    fake.ready = False
    assert get(front, "/health") == 503


def get(front: str, path: str) -> int:
    connection = http.client.HTTPConnection(front.split("/")[2], timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


# --- refusals ---


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 2}, None),
        ({"best_of": 3}, None),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"prompt": [1, 2]}, None),
        ({"prompt": []}, None),
        ({"extra_body": {"tempreature": 1}}, "tempreature"),
        ({"stream_options": {"include_usage": True}}, None),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, fake: FakeServer, fields: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **{"prompt": "a secret", **fields})
    assert caught.value.body["type"] == "invalid_request_error"  # type: ignore[index]
    assert param is None or caught.value.param == param
    assert "secret" not in str(caught.value) and fake.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"top_logprobs": 2, "logprobs": True},
        {"messages": []},
        {"messages": [{"content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
)
def test_chat_refuses_what_is_not_text(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        chat(client, **fields)


def test_neutral_values_of_what_is_not_supported_are_fine(client: openai.OpenAI) -> None:
    chat(client, max_tokens=1, tools=[], tool_choice="auto", response_format={"type": "text"}, store=False)


def test_other_models_paths_and_bodies_have_openais_errors(client: openai.OpenAI, front: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="hi")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="x")
    for body, status, message in (
        (b"{", 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        (b"[]", 400, "dict"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', 400, "surrogate"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', 400, "temperature"),
        (b" " * (17 << 20), 413, "bytes"),
    ):
        connection = http.client.HTTPConnection(front.split("/")[2], timeout=10)
        place = "chat/completions" if b"messages" in body else "completions"
        connection.request("POST", f"/v1/{place}", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        said = json.loads(reply.read())["error"]["message"]
        assert reply.status == status and message in said, said
        connection.close()


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        (Fail("max_tokens: too many", "INVALID_ARGUMENT"), 400, None),
        (Fail("Exceeds maximum queue size", "UNAVAILABLE"), 503, "engine_overloaded"),
        (Fail("out of memory", "INTERNAL"), 500, "server_failure"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_token_has_its_status(
    client: openai.OpenAI, fake: FakeServer, step: Step, status: int, code: str | None, stream: bool
) -> None:
    fake.respond = lambda _request: [step]
    with pytest.raises(openai.APIStatusError) as caught:
        complete(client, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_an_error_in_mid_stream_reaches_the_client(client: openai.OpenAI, fake: FakeServer) -> None:
    fake.respond = lambda _request: [Say("part", (1,)), Fail("out of memory", "INTERNAL")]
    with pytest.raises(openai.APIError, match="out of memory"):
        list(complete(client, stream=True))


def test_a_dead_server_is_unavailable(client: openai.OpenAI, fake: FakeServer) -> None:
    fake.close()
    with pytest.raises(openai.InternalServerError) as caught:
        complete(client)
    assert caught.value.status_code == 503


def test_a_key_is_demanded_where_one_is_set(fake: FakeServer, tokenizer: Path) -> None:
    place = Deployment("tiny", fake.url, 100, tokenizer, api_key="right")
    with openai_front.bind("127.0.0.1", 0) as bound, openai_front.running(place, bound) as running:
        with connect(running.url, "right") as client:
            assert complete(client, max_tokens=1).choices
        with connect(running.url, "wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
            complete(client)
        assert caught.value.code == "invalid_api_key"
        assert get(running.url, "/health") == 200


def test_a_model_without_a_template_refuses_chat_only(fake: FakeServer, tmp_path: Path) -> None:
    deployment.tokenizer().save(str(tmp_path / "tokenizer.json"))
    place = Deployment("tiny", fake.url, 100, tmp_path)
    with (
        openai_front.bind("127.0.0.1", 0) as bound,
        openai_front.running(place, bound) as running,
        connect(running.url) as client,
    ):
        assert complete(client, max_tokens=1).choices
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            chat(client)


# --- leaving ---


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(front: str, fake: FakeServer, stream: bool) -> None:
    fake.respond = lambda _request: [Say("a", (1,)), Hang()]
    body = json.dumps({"model": "tiny", "prompt": "hi", "n": 2, "stream": stream})
    connection = socket.create_connection(("127.0.0.1", int(front.split(":")[2].split("/", maxsplit=1)[0])))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    until(lambda: len(fake.requests) == 2, "the requests")
    if stream:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()
    assert all(request.cancelled.wait(10) for request in fake.requests)


def test_running_requests_may_finish_when_the_front_stops(fake: FakeServer, tokenizer: Path) -> None:
    go = threading.Event()

    def respond(_request: Received) -> Iterator[Step]:
        yield Say("one ", (1,))
        assert go.wait(20)
        yield Say("two", (2,), final=True, finish_reason="stop")

    fake.respond = respond
    with openai_front.bind("127.0.0.1", 0) as bound:
        with openai_front.running(Deployment("tiny", fake.url, 100, tokenizer), bound) as running:
            client = connect(running.url)
            stream = complete(client, stream=True)
            first = next(iter(stream))
            threading.Timer(0.3, go.set).start()
        rest = "".join(piece.choices[0].text for piece in stream)
    assert first.choices[0].text + rest == "one two"
    client.close()


def test_the_log_never_holds_a_prompt(
    client: openai.OpenAI,
    fake: FakeServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The client in this process logs what it sends; the front's own loggers are what matters here.
    for name in ("specbuild", "specclient", "uvicorn", "starlette"):
        caplog.set_level("DEBUG", logger=name)
    complete(client, "a secret prompt", max_tokens=1)
    fake.respond = lambda _request: [Fail("boom")]
    with pytest.raises(openai.InternalServerError):
        complete(client, "a secret prompt")
    with pytest.raises(openai.BadRequestError):
        complete(client, "a secret prompt", temperature=9)
    assert not [record for record in caplog.records if "secret" in record.getMessage()]
    assert "secret" not in "".join(capfd.readouterr())


# --- as a part of ``specbuild serve`` ---


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration file of a tiny deployment with a chat template."""
    output = tmp_path_factory.mktemp("served")
    settings = deployment.write(output)
    config = {"chat_template": TEMPLATE}
    (settings.engines_dir / "target" / "tokenizer_config.json").write_text(json.dumps(config))
    (output / "pair.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return output / "pair.yaml"


class Serving:
    """``specbuild serve --openai-port`` as a program."""

    def __init__(self, config: Path, *arguments: str, **variables: str) -> None:
        command = [sys.executable, "-m", "specbuild", "serve", "--config", str(config), "--openai-port", "0"]
        self.program = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        assert self.program.stdout is not None
        self.addresses = dict(self.program.stdout.readline().split()[:2] for _ in range(4))

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_error: object) -> None:
        self.program.kill()
        self.program.communicate()


def test_serve_answers_openais_client_and_stops_cleanly(served: Path) -> None:
    with Serving(served, SPECBUILD_OPENAI_API_KEY="k") as serving:
        assert list(serving.addresses) == ["gRPC", "HTTP", "metrics", "OpenAI"]
        with connect(serving.addresses["OpenAI"], "k") as client:
            greedy = {"temperature": 0, "max_tokens": 30}
            whole = chat(client, **greedy)
            assert whole.usage.completion_tokens <= 30 and whole.usage.speculation["draft_tokens"] > 0
            pieces = list(chat(client, stream=True, **greedy))
            text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
            assert text == whole.choices[0].message.content
            sampled = [complete(client, seed=seed, max_tokens=20).choices[0].text for seed in (1, 1, 2)]
            assert sampled[0] == sampled[1] != sampled[2]
            with pytest.raises(openai.BadRequestError, match="max_tokens"):
                complete(client, max_tokens=1_000_000)
            answer = complete(client, logprobs=0, max_tokens=5)
            assert len(answer.choices[0].logprobs.token_logprobs) == answer.usage.completion_tokens
        serving.program.send_signal(signal.SIGTERM)
        assert serving.program.wait(30) == 0


def test_serve_with_a_taken_openai_port_fails_before_anything_starts(served: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "specbuild", "serve", "--config", str(served)]
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*command, "--openai-port", port], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1 and "cannot be used" in done.stderr and "starting Triton" not in done.stderr


def test_a_server_that_dies_takes_the_front_with_it(served: Path) -> None:
    with Serving(served) as serving:
        for child in psutil.Process(serving.program.pid).children(recursive=True):
            if child.name() == "tritonserver":
                child.kill()
        _, stderr = serving.program.communicate(timeout=60)
        assert serving.program.returncode == 1 and "ended by itself" in stderr
        with connect(serving.addresses["OpenAI"]) as client, pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_a_second_interrupt_does_not_wait_for_a_stream(served: Path) -> None:
    with Serving(served) as serving, connect(serving.addresses["OpenAI"]) as client:
        stream = complete(
            client, max_tokens=4000, stream=True, extra_body={"num_draft_tokens": 0, "min_tokens": 3999}
        )
        next(iter(stream))
        serving.program.send_signal(signal.SIGINT)
        assert serving.program.stderr is not None
        until(
            lambda: "stopping" in (serving.program.stderr.readline() if serving.program.stderr else ""), "it"
        )
        serving.program.send_signal(signal.SIGINT)
        assert serving.program.wait(8) == 130
        stream.close()


def test_a_server_without_a_tokenizer_says_what_it_needs_it_for(fake: FakeServer, tmp_path: Path) -> None:
    """As with a checkpoint that is named by its hub id."""
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    place = Deployment("tiny", fake.url, 100, tmp_path)
    with (
        openai_front.bind("127.0.0.1", 0) as bound,
        openai_front.running(place, bound) as running,
        connect(running.url) as client,
    ):
        assert chat(client, max_tokens=1).choices
        for fields in ({}, {"max_tokens": 1, "logprobs": True}):
            with pytest.raises(openai.BadRequestError, match="max_tokens"):
                chat(client, **fields)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("arguments", [["--openai-host", "0.0.0.0"], ["--openai-port", "70000"]])
def test_wrong_usage_of_serve_exits_2(served: Path, arguments: list[str]) -> None:
    assert cli.run(["serve", "--config", str(served), *arguments]) == 2
