# SPDX-License-Identifier: Apache-2.0
"""A real Triton when something goes wrong: clients leave, processes die, models hang, ports are taken."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from specbuild import cli, server
from specbuild.config import Config
from specbuild.errors import ServerError
from specbuild.server import RunningServer, supervisor
from support import deployment
from support.monitoring import samples
from support.ports import free_ports
from support.waiting import until
from support.wire import Stream, WireError, ask

NEVER = -1
LONG = {"text_input": b"a long story", "max_tokens": 8000, "end_id": NEVER, "num_draft_tokens": 0}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """One slot and a queue of two, so that whoever holds the slot is felt by the next."""
    output = tmp_path_factory.mktemp("deployment")
    return deployment.write(
        output, limits={"max_batch_size": 1, "max_seq_len": 8192}, serving={"max_queue_size": 2}
    )


@pytest.fixture(scope="module")
def triton(settings: Config) -> Iterator[RunningServer]:
    with server.running(settings) as running:
        yield running


def elsewhere(settings: Config) -> Config:
    """The same deployment on other ports, with its own log."""
    http, grpc, metrics = free_ports(3)
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    return settings.model_copy(update={"serving": settings.serving.model_copy(update=ports)})


def family() -> set[int]:
    """The processes below this one."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def regions(owner: int) -> set[str]:
    """The shared memory of servers that process ``owner`` has started."""
    return {path.name for path in supervisor.SHM.glob(f"specbuild-{owner}-*")}


@contextlib.contextmanager
def nothing_left(settings: Config, owner: int | None = None) -> Iterator[None]:
    """No process, port or shared memory more than before; ``owner`` starts the server, else this process."""
    owner = owner or os.getpid()
    processes, memory = family(), regions(owner)
    yield
    until(lambda: family() <= processes, "the processes to end")
    until(lambda: regions(owner) <= memory, "the shared memory to be removed")
    serving = settings.serving
    for port in (serving.http_port, serving.grpc_port, serving.metrics_port):
        socket.create_server((serving.host, port)).close()


# Clients that leave. A long request takes many seconds in the only slot; a short one must not wait for it.


def leave_by_cancel(address: RunningServer, streaming: bool) -> None:
    with Stream(address.grpc, {**LONG, "stream": streaming}) as stream:
        if streaming:
            stream.next()
        else:
            time.sleep(0.3)  # there is nothing to wait for: the request has no response yet


def leave_by_being_killed(address: RunningServer, streaming: bool) -> None:
    program = (
        "import sys\n"
        "from support.wire import Stream\n"
        f"stream = Stream(sys.argv[1], { ({**LONG, 'stream': streaming})!r})\n"
        "print('sent', flush=True)\n"
        "stream.next()\n"
        "print('answered', flush=True)\n"
        "sys.stdin.read()\n"
    )
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", program, address.grpc],
        env={**os.environ, "PYTHONPATH": tests},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "sent\n"
        if streaming:
            assert client.stdout.readline() == "answered\n"
        client.kill()


def leave_by_closing_http(address: RunningServer, streaming: bool) -> None:
    assert streaming
    host, port = address.http.rsplit(":", 1)
    body = json.dumps({**LONG, "text_input": "a long story", "stream": True}).encode()
    head = (
        "POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: test\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("leave", "streaming"),
    [
        (leave_by_cancel, True),
        (leave_by_cancel, False),
        (leave_by_being_killed, True),
        (leave_by_being_killed, False),
        # Without streaming, tritonserver 2.51 does not look at an HTTP connection before it has the answer.
        (leave_by_closing_http, True),
    ],
)
def test_a_client_that_has_gone_frees_its_slot(
    triton: RunningServer, leave: Callable[[RunningServer, bool], None], streaming: bool
) -> None:
    idle(triton)
    leave(triton, streaming)
    start = time.monotonic()
    ask(triton.grpc, "next", 1)
    assert time.monotonic() - start < 3  # to wait for the long request would take several times that


def test_a_client_that_leaves_the_queue_gives_its_place_to_the_next(triton: RunningServer) -> None:
    idle(triton)
    with Stream(triton.grpc, {**LONG, "stream": True}) as first:
        first.next()
        for _ in range(4):  # more than the queue holds; each leaves before it is served
            with Stream(triton.grpc, LONG) as waiting, pytest.raises(WireError, match="nothing for"):
                waiting.next(timeout_s=1.0)
        assert not first.next().final


def test_a_full_queue_refuses_at_once_and_recovers(triton: RunningServer) -> None:
    idle(triton)
    with contextlib.ExitStack() as stack:
        stack.enter_context(Stream(triton.grpc, {**LONG, "stream": True})).next()
        for _ in range(2):
            stack.enter_context(Stream(triton.grpc, LONG))
        until(lambda: "Exceeds maximum queue size" in complaint(triton), "the queue to be full")
    idle(triton)


def idle(triton: RunningServer) -> None:
    """Return when nobody is before the next request: who has left is noticed after a moment."""
    until(lambda: not complaint(triton), "the server to be idle")


def complaint(triton: RunningServer) -> str:
    """What a short request is answered instead of tokens."""
    try:
        with Stream(triton.grpc, {"text_input": b"one more", "max_tokens": 1}) as stream:
            stream.next(timeout_s=0.5)
    except WireError as error:
        return str(error)
    return ""


def test_nothing_accumulates_when_many_clients_leave(triton: RunningServer) -> None:
    stub = process(triton, "/torch/1/model.py")

    def come_and_go(times: int) -> int:
        """The memory of the torch model's process afterwards."""
        for _ in range(times):
            with Stream(triton.grpc, {**LONG, "stream": True}) as stream, contextlib.suppress(WireError):
                stream.next()  # a full queue is an answer too
        idle(triton)
        return int(stub.memory_info().rss)

    warm = come_and_go(50)
    assert come_and_go(200) - warm < 20 << 20


BREAKS = """

import threading

submit = Engine.submit


def submit_to_break(self, request, *, on_chunk, on_error):
    chunks = []

    def chunk(one):
        chunks.append(one)
        if len(chunks) <= 3:
            on_chunk(one)
        if len(chunks) == 3:
            # After the client has had the time to leave, and before a sign of life would show that it has.
            threading.Timer(0.2, on_error, [EngineError("the engine broke", remedy="")]).start()

    return submit(self, request, on_chunk=chunk if request.min_tokens else on_chunk, on_error=on_error)


Engine.submit = submit_to_break
"""
"""Appended to the torch model: the engine gives up a request that asks for min_tokens after three chunks."""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Config:
    mine = deployment.write(tmp_path_factory.mktemp("fragile"), limits={"max_seq_len": 8192})
    model = mine.repository_dir / "torch" / "1" / "model.py"
    model.write_text(model.read_text(encoding="utf-8") + BREAKS, encoding="utf-8")
    return mine


def test_an_engine_that_breaks_within_a_stream_is_an_error_and_keeps_no_request(fragile: Config) -> None:
    """Whether its client is there or has left: Triton waits ten seconds for open requests when it stops."""
    breaking = {**LONG, "stream": True, "min_tokens": 1}
    with server.running(fragile) as running:
        with Stream(running.grpc, breaking) as stream:
            tokens = 0
            with pytest.raises(WireError, match="the engine broke"):
                while True:
                    tokens += len(stream.next(timeout_s=10.0).ids)
            assert tokens >= 3
        for _ in range(16):
            with Stream(running.grpc, breaking) as leaving:
                tokens = 0
                while tokens < 3:
                    tokens += len(leaving.next().ids)
        assert ask(running.grpc, "still there", 1)
        until(lambda: ended(running, "error", "cancelled") == 17, "the engine to break")
        assert ended(running, "error") > 1
        start = time.monotonic()
    assert time.monotonic() - start < 8


def ended(triton: RunningServer, *outcomes: str) -> float:
    """How many requests have ended in these ways."""
    return sum(
        value
        for name, labels, value in samples(triton.metrics)
        if name == "specbuild_spec_decode_num_requests_total" and labels["outcome"] in outcomes
    )


# The life of the server.


def test_two_servers_side_by_side_and_a_clean_stop(settings: Config, triton: RunningServer) -> None:
    mine = elsewhere(settings)
    with nothing_left(mine):
        with server.running(mine) as other:
            idle(triton)
            answers = [ask(address, "same", 8, end_id=NEVER)[0].ids for address in (other.grpc, triton.grpc)]
            assert answers[0] == answers[1]
            leave_by_cancel(other, True)
            leave_by_cancel(other, False)
            idle(other)
            start = time.monotonic()
        # Triton waits up to 10 s for open requests; one that is kept for a client that has gone costs that.
        assert time.monotonic() - start < 8
    assert ask(triton.grpc, "still there", 1)


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_taken_port_is_reported_before_anything_starts(settings: Config, name: str) -> None:
    mine = elsewhere(settings)
    port = getattr(mine.serving, f"{name}_port")
    taken = socket.create_server(("127.0.0.1", port))
    with taken, pytest.raises(ServerError) as error, server.running(mine):
        pass
    assert f"{name} port {port} on 127.0.0.1 cannot be used" in error.value.message
    assert f"--set serving.{name}_port=" in error.value.remedy


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])  # RFC 2606 and 5737: never ours
def test_an_address_that_is_not_this_machines_is_explained(settings: Config, host: str) -> None:
    serving = settings.serving.model_copy(update={"host": host})
    with (
        pytest.raises(ServerError) as error,
        server.running(settings.model_copy(update={"serving": serving})),
    ):
        pass
    assert f"on {host} cannot be used" in error.value.message
    assert "serving.host" in error.value.remedy


def broken(settings: Config, tmp_path: Path, body: str, **serving: int) -> Config:
    """The deployment with a ``torch`` model whose ``initialize`` runs ``body``."""
    mine = deployment.write(tmp_path, serving=serving)
    model = mine.repository_dir / "torch" / "1" / "model.py"
    model.write_text(
        f"import os, time\nclass TritonPythonModel:\n    def initialize(self, args):\n        {body}\n"
    )
    return mine


@pytest.mark.parametrize(
    ("body", "reason"),
    [("raise ValueError('no weights here')", "no weights here"), ("os._exit(3)", "failed")],
    ids=["raises", "exits"],
)
def test_a_model_that_fails_to_load_is_explained_from_the_log(
    settings: Config, tmp_path: Path, body: str, reason: str
) -> None:
    mine = broken(settings, tmp_path, body)
    with nothing_left(mine), pytest.raises(ServerError) as error, server.running(mine):
        pass
    assert "ended while starting (exit code 1)" in error.value.message
    assert reason in error.value.message
    assert str(mine.logs_dir) in error.value.remedy


def test_a_model_that_never_finishes_loading_meets_the_deadline(settings: Config, tmp_path: Path) -> None:
    mine = broken(settings, tmp_path, "time.sleep(600)", startup_timeout_s=3)
    late = pytest.raises(ServerError, match="was not ready within 3 s")
    with nothing_left(mine), late, server.running(mine):
        pass


def test_a_ready_server_that_does_not_answer_is_no_running_server(settings: Config, tmp_path: Path) -> None:
    mine = broken(settings, tmp_path, "pass", startup_timeout_s=20)
    model = mine.repository_dir / "torch" / "1" / "model.py"
    model.write_text(model.read_text() + "    def execute(self, requests):\n        os._exit(1)\n")
    mute = pytest.raises(ServerError, match="is ready but does not answer")
    with nothing_left(mine), mute, server.running(mine):
        pass


def test_a_killed_tritonserver_is_reported_and_its_stubs_end(settings: Config) -> None:
    mine = elsewhere(settings)
    with nothing_left(mine), server.running(mine) as running:
        with Stream(running.grpc, {**LONG, "stream": True}) as stream:
            stream.next()
            process(running, "tritonserver").kill()
            with pytest.raises(WireError):
                for _ in stream:
                    pass
        with pytest.raises(ServerError, match=r"tritonserver ended by itself \(signal 9\)"):
            running.wait()


def test_a_killed_model_process_ends_the_server_instead_of_leaving_clients_to_hang(settings: Config) -> None:
    mine = elsewhere(settings)
    with nothing_left(mine), server.running(mine) as running:
        with Stream(running.grpc, {**LONG, "stream": True}) as stream:
            stream.next()
            process(running, "/torch/1/model.py").kill()
            with pytest.raises(WireError, match="UNAVAILABLE"):
                for _ in stream:
                    pass
        with pytest.raises(ServerError, match="the process of model torch has died"):
            running.wait()


def process(running: RunningServer, word: str) -> psutil.Process:
    """The server's process whose command line holds ``word``."""
    keeper = psutil.Process(running._process.pid)
    return next(
        child
        for child in keeper.children(recursive=True)
        if word in " ".join(child.cmdline()) and "supervisor.py" not in " ".join(child.cmdline())
    )


# ``specbuild serve`` as a program.


@pytest.fixture
def serving(settings: Config, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program, and its gRPC address once it has printed it."""
    mine = elsewhere(settings)
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(mine.model_dump(mode="json")))
    command = [sys.executable, "-m", "specbuild", "serve", "--config", str(tmp_path / "pair.yaml")]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with nothing_left(mine, program.pid), program:
        assert program.stdout is not None
        address = program.stdout.readline().removeprefix("gRPC").strip()
        assert address == f"127.0.0.1:{mine.serving.grpc_port}"
        yield program, address
        program.kill()


def test_serve_answers_when_it_says_so_and_stops_cleanly(serving: tuple[subprocess.Popen[str], str]) -> None:
    program, address = serving
    assert ask(address, "hello", 1)
    program.terminate()
    assert program.wait(20) == 0


def test_nothing_outlives_a_killed_serve(serving: tuple[subprocess.Popen[str], str]) -> None:
    program, _ = serving
    descendants = psutil.Process(program.pid).children(recursive=True)
    assert len(descendants) >= 5  # supervisor, tritonserver and three stubs
    program.kill()
    until(lambda: not any(child.is_running() for child in descendants), "all of them to end")


def test_a_second_interrupt_does_not_wait(serving: tuple[subprocess.Popen[str], str]) -> None:
    program, address = serving
    with Stream(address, LONG):
        time.sleep(0.3)
        program.send_signal(signal.SIGINT)
        assert program.stderr is not None
        until(
            lambda: "stopping" in (program.stderr.readline() if program.stderr else ""),
            "the first to be seen",
        )
        program.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert program.wait(20) == 130
        assert time.monotonic() - start < 3


def test_serve_reports_a_server_that_dies(serving: tuple[subprocess.Popen[str], str]) -> None:
    program, _ = serving
    for child in psutil.Process(program.pid).children(recursive=True):
        if child.name() == "tritonserver":
            child.kill()
    _, stderr = program.communicate(timeout=20)
    assert program.returncode == 1
    assert "tritonserver ended by itself (signal 9)" in stderr


def test_serve_refuses_a_repository_that_is_not_in_order(
    settings: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = elsewhere(settings).model_copy(update={"output": tmp_path})
    shutil.copytree(settings.repository_dir, mine.repository_dir)
    (mine.repository_dir / "torch" / "config.pbtxt").write_text("")
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(mine.model_dump(mode="json")))
    with nothing_left(mine):
        assert cli.run(["serve", "--config", str(tmp_path / "pair.yaml")]) == 1
    error = capsys.readouterr().err
    assert "config.pbtxt is empty (config-empty)" in error and "starting Triton" not in error


def test_a_dry_run_prints_the_command_and_starts_nothing(settings: Config, tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    command = [
        sys.executable,
        "-m",
        "specbuild",
        "serve",
        "--dry-run",
        "--config",
        str(tmp_path / "pair.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert f"--grpc-port={settings.serving.grpc_port}" in done.stdout


def test_the_metrics_endpoint_answers(triton: RunningServer) -> None:
    with urllib.request.urlopen(f"http://{triton.metrics}/metrics", timeout=5) as reply:
        assert b"nv_inference_request_success" in reply.read()
