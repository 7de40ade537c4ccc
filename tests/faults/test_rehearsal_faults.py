# SPDX-License-Identifier: Apache-2.0
"""The loop of draft and target on a real Triton when clients leave and when the draft is of no use."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from specbuild.config import Config
from specbuild.repository import modelconfig
from specbuild.server import RunningServer, supervisor
from support.rehearsal import Front, metric, pair_and_target, rehearsed, settings_for
from support.synthetic import tiny_pair
from support.waiting import until

PROMPT = "def parse(self, text):"
LONG = {"text_input": PROMPT, "max_tokens": 400}
SEATS = 8
LEAVING = 1000
WARM = 24  # turns; a multiple of four, like the last one


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def triton(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with rehearsed(settings_for(pair, tmp_path_factory.mktemp("deployment"))) as server:
        yield server


def requests(server: RunningServer, outcome: str) -> float:
    return metric(server, "spec_decode_num_requests_total", outcome=outcome)


def leave(server: RunningServer, *, stream: bool) -> None:
    """As many clients as there are seats leave while they are served."""
    clients = [Front(server.grpc) for _ in range(SEATS)]
    for client in clients:
        client.send({**LONG, "stream": stream})
    for client in clients if stream else ():
        client.wait()
    if not stream:
        until(lambda: metric(server, "spec_decode_running_requests") > 0, "the requests to run")
    for client in clients:
        client.close()


def come_and_go(server: RunningServer, *, stream: bool) -> None:
    """As ``leave``; returns when it has been noticed."""
    before = metric(server, "spec_decode_num_requests_total")
    leave(server, stream=stream)
    ended = before + SEATS if stream else before + 1  # what is unanswered may be cancelled before it arrives
    until(lambda: metric(server, "spec_decode_num_requests_total") >= ended, "the requests to end")
    seats_are_free(server)


def seats_are_free(server: RunningServer) -> None:
    until(lambda: metric(server, "spec_decode_running_requests") == 0, "the seats to be free")


class Held:
    """What the server's processes hold."""

    def __init__(self) -> None:
        below = psutil.Process().children(recursive=True)
        processes = [one for one in below if one.name().startswith("triton")]
        assert len(processes) == 6  # tritonserver and its models
        self.threads = sum(one.num_threads() for one in processes)
        self.files = sum(one.num_fds() for one in processes)
        # Not of the engines' stand-ins: PyTorch keeps a plan for each of the first thousand shapes it meets.
        self.memory = sum(one.memory_info().rss for one in processes if not stands_in(one))
        regions = supervisor.SHM.glob(f"specbuild-{os.getpid()}-*")
        self.shared = sum(region.stat().st_size for region in regions)


def stands_in(process: psutil.Process) -> bool:
    return any("/tensorrt_llm" in word for word in process.cmdline())


@pytest.mark.timeout(600)
def test_a_thousand_clients_that_leave_leave_nothing_behind(triton: RunningServer) -> None:
    before = requests(triton, "cancelled")
    for turn in range(LEAVING // SEATS):
        # Three times out of four the next ones come while these are still being noticed.
        if turn % 4:
            leave(triton, stream=True)
        else:
            seats_are_free(triton)
            come_and_go(triton, stream=False)
        if turn == WARM:
            warm = Held()
    now = Held()
    assert requests(triton, "error") == requests(triton, "refused") == 0
    # A request may have come to its own end before its client's leaving was noticed.
    assert requests(triton, "cancelled") - before > LEAVING / 2
    assert now.memory - warm.memory < 20 << 20
    assert now.shared == warm.shared
    # A pool's threads come one by one, up to its size.
    assert now.threads - warm.threads < 3 * SEATS
    assert now.files - warm.files < SEATS


@pytest.mark.parametrize("stream", [True, False])
def test_neither_engine_works_for_clients_that_have_gone(triton: RunningServer, stream: bool) -> None:
    """The next request's calls are all the calls there are."""
    come_and_go(triton, stream=stream)
    front = Front(triton.grpc)
    # With the first pass of its next request, an engine has dropped all that it was told to stop.
    front.ask(text_input=PROMPT, max_tokens=9)
    before = metric(triton, "rehearsal_calls_total")
    answer = front.ask(text_input=PROMPT, max_tokens=200)
    # The prompt's pass of each engine, and two calls for each round; the last round may need no draft.
    calls = 2 + 2 * answer.last("num_rounds")
    until(lambda: metric(triton, "rehearsal_calls_total") >= before + calls - 1, "the calls")
    # Each client that had gone would add at least one, and a call is counted just after it is answered.
    assert metric(triton, "rehearsal_calls_total") <= before + calls + 2
    front.close()


def test_a_server_whose_clients_have_left_stops_at_once(pair: Path, tmp_path: Path) -> None:
    """Triton waits ten seconds for open requests, also for those that nobody will end."""
    with rehearsed(settings_for(pair, tmp_path)) as server:
        for stream in (True, False):
            come_and_go(server, stream=stream)
        start = time.monotonic()
    assert time.monotonic() - start < 8


# A draft that is of no use. Its engine's config.json is what the rehearsal's engine keeps to.


def build(**values: int) -> Callable[[Config], None]:
    """Change what the draft engine was built for."""

    def change(settings: Config) -> None:
        path = settings.engines_dir / "draft" / "config.json"
        document: dict[str, Any] = json.loads(path.read_text())
        document["build_config"] |= values
        path.write_text(json.dumps(document))

    return change


def impatient(settings: Config) -> None:
    """No draft is as fast as the loop wants it."""
    folder = settings.repository_dir / "speculative"
    message = modelconfig.read(folder)
    modelconfig.set_parameters(message, {"draft_timeout_ms": 0})
    (folder / modelconfig.FILE).write_text(modelconfig.render(message))


def test_a_draft_that_refuses_leaves_the_target_alone(pair: Path, tmp_path: Path) -> None:
    with rehearsed(settings_for(pair, tmp_path), change=build(max_input_len=24)) as server:
        front = Front(server.grpc)
        ours, theirs = pair_and_target(front, "class Reader:", max_tokens=60)
        assert ours == theirs
        until(lambda: metric(server, "spec_decode_num_fallbacks_total", reason="error") == 1, "the counter")
        assert metric(server, "spec_decode_num_drafts_total") > 0
        front.close()


def test_a_draft_that_ends_early_is_judged_by_what_it_said(pair: Path, tmp_path: Path) -> None:
    """Its texts may have 40 tokens: near that it proposes fewer tokens than it is asked for, then none."""
    with rehearsed(settings_for(pair, tmp_path), change=build(max_seq_len=40)) as server:
        front = Front(server.grpc)
        for prompt in (PROMPT, "class Reader:", "import os, sys"):
            ours, theirs = pair_and_target(front, prompt, max_tokens=60)
            assert ours == theirs
            assert len(ours) == 60
        until(lambda: metric(server, "spec_decode_num_fallbacks_total", reason="error") > 0, "the counter")
        front.close()


def test_a_draft_that_is_too_slow_leaves_the_target_alone(pair: Path, tmp_path: Path) -> None:
    with rehearsed(settings_for(pair, tmp_path), change=impatient) as server:
        front = Front(server.grpc)
        ours, theirs = pair_and_target(front, PROMPT, max_tokens=60)
        assert ours == theirs
        until(lambda: metric(server, "spec_decode_num_fallbacks_total", reason="timeout") == 1, "the counter")
        assert metric(server, "spec_decode_num_drafts_total") == 0
        front.close()
