# SPDX-License-Identifier: Apache-2.0
"""Open and closed loops over a real connection: nothing is omitted, and every end leaves a report."""

from __future__ import annotations

import functools
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specbuild import cli
from specclient import GenerationParameters, IncompleteStream, InvalidRequest, RequestTimeout
from specclient.bench import (
    Concurrency,
    Outcome,
    Prompt,
    Rate,
    Replay,
    Settings,
    Stability,
    Workload,
    document,
    measure,
)
from specclient.channel import Tls
from specclient.testing import Fail, FakeServer, Hang, Received, Say, Step, words
from specclient.timeouts import Timeout
from support import interruption
from support.endpoints import TLS

pytestmark = pytest.mark.timing


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(functools.partial(words, first=0.02, gap=0.01, burst=2)) as server:
        yield server


def run(server: FakeServer, **changes: Any) -> Outcome:
    given = {"request_count": 8, "warmup_request_count": 0, **changes}
    tokens = given.pop("max_tokens", 3)
    return measure(
        Settings(url=server.url, parameters=GenerationParameters(max_tokens=tokens), **given), "throughput"
    )


def test_a_stall_of_the_server_shows_in_the_tail_of_an_open_loop(server: FakeServer) -> None:
    """One second of silence at 40 requests/s must hit about 40 requests, not one."""
    begin = threading.Event()
    until: list[float] = []

    def stalled(request: Received) -> Iterator[Step]:
        if len(server.requests) == 20 and not begin.is_set():
            until.append(time.monotonic() + 1.0)
            begin.set()
        wait = max(0.0, until[0] - time.monotonic()) if begin.is_set() else 0.0
        yield Say("a", (1,), after=wait + 0.005, final=True)

    server.respond = stalled
    (made,) = document(run(server, loads=(Rate(40, "constant"),), request_count=120, max_tokens=1))["runs"]
    latency = made["figures"]["latency_ms"]
    assert latency is not None and latency["n"] == 120
    assert latency["p99"] > 900 and latency["p90"] > 500
    assert latency["p25"] < 500


def test_a_request_that_the_client_sends_late_counts_from_its_schedule(server: FakeServer) -> None:
    """A client that stalls must not blame nobody: the wait is in the latency and in the schedule lag."""
    blocked = []

    def block(_progress: object) -> None:
        if not blocked:
            blocked.append(True)
            threading.Event().wait(0.5)  # the event loop stands still

    settings = Settings(
        url=server.url,
        loads=(Rate(50, "constant"),),
        request_count=30,
        warmup_request_count=0,
        parameters=GenerationParameters(max_tokens=1),
    )
    (made,) = document(measure(settings, "throughput", block))["runs"]
    figures = made["figures"]
    assert figures["schedule_lag_ms"]["max"] > 300
    assert figures["ttft_ms"]["max"] > 300
    assert figures["ttft_ms"]["max"] > figures["sent_to_first_token_ms"]["p50"]
    assert made["client"]["bottleneck"] and made["client"]["loop_lag_ms"]["max"] > 300


def test_a_step_of_the_wall_clock_moves_no_figure(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time

    def step_back(_progress: object) -> None:
        monkeypatch.setattr(time, "time", lambda: real() - 3600)

    settings = Settings(
        url=server.url,
        loads=(Rate(20),),
        request_count=8,
        parameters=GenerationParameters(max_tokens=3),
    )
    (made,) = document(measure(settings, "throughput", step_back))["runs"]
    assert 15 < made["figures"]["ttft_ms"]["p50"] < 2000
    assert 0 < made["window"]["duration_s"] < 60


def test_warm_up_and_ramp_are_not_measured(server: FakeServer) -> None:
    outcome = run(server, loads=(Rate(100, "constant"),), warmup_request_count=5, ramp_s=0.1)
    (made,) = outcome.runs
    assert len(made.measured) == 8 - 5 and len(made.samples) == 13  # ten are due within the ramp
    outcome = run(server, loads=(Concurrency(4),), warmup_request_count=6)
    assert len(outcome.runs[0].measured) == 8 and len(server.requests) == 13 + 14


def test_a_fixed_time_measures_what_ends_in_its_window(server: FakeServer) -> None:
    outcome = run(server, loads=(Concurrency(3),), request_count=None, duration_s=0.5, ramp_s=0.2)
    (made,) = document(outcome)["runs"]
    assert made["window"]["rule"] == "time" and made["window"]["duration_s"] == pytest.approx(0.5)
    assert made["requests"]["outside_window"] >= 3
    assert made["figures"]["requests_per_second"] == pytest.approx(made["requests"]["succeeded"] / 0.5)
    run_ = outcome.runs[0]
    start, end = run_.window_ns or (0, 0)
    # Also those that were in flight when the window began: without them the rate is too low.
    assert run_.measured == [sample for sample in run_.samples if start <= sample.ended_ns <= end]
    assert any(sample.sent_ns < start for sample in run_.measured)


def test_the_stability_rule_ends_with_three_intervals(server: FakeServer) -> None:
    rule = Stability(percentage=1e-6, interval_s=0.1, trials=4)
    (made,) = document(run(server, loads=(Concurrency(2),), request_count=None, stability=rule))["runs"]
    assert made["window"]["stable"] is False and len(made["window"]["intervals"]) == 4
    assert made["window"]["duration_s"] == pytest.approx(0.3)
    rule = Stability(percentage=99, interval_s=0.2)
    report = document(run(server, loads=(Rate(60, "constant"),), request_count=None, stability=rule))
    assert report["runs"][0]["window"]["stable"] is True


def test_a_trace_is_replayed_at_its_times(server: FakeServer) -> None:
    times = (0.0, 0.05, 0.3)
    prompts = tuple(Prompt(str(at), "code", "x", output_tokens=2, arrival_s=at) for at in times)
    workload = Workload("trace", "unknown", prompts)
    report = document(run(server, workload=workload, loads=(Replay(times),), request_count=3))
    assert [row["scheduled_s"] for row in report["requests"]] == pytest.approx(list(times))
    assert [row["output_tokens"] for row in report["requests"]] == [2, 2, 2]


def test_a_long_prompt_arrives_whole_whatever_the_windows(server: FakeServer) -> None:
    text = "".join(f"{number} " for number in range(200_000))
    workload = Workload("long", "CC0-1.0", (Prompt("long", "code", text),))
    outcome = run(server, workload=workload, request_count=3)
    assert outcome.complete and {request.prompt for request in server.requests} == {text}


def test_requests_have_their_own_ids_and_the_given_headers(server: FakeServer) -> None:
    assert run(server, headers={"authorization": "Bearer x"}).complete
    assert len({request.id for request in server.requests}) == 8
    assert all(request.headers["authorization"] == "Bearer x" for request in server.requests)


def test_mutual_tls() -> None:
    both = Tls(
        root_certificates=TLS / "ca.pem", private_key=TLS / "client.key", certificate_chain=TLS / "client.pem"
    )
    own = Tls(
        root_certificates=TLS / "ca.pem", private_key=TLS / "server.key", certificate_chain=TLS / "server.pem"
    )
    with FakeServer(words, tls=own) as server:
        settings = Settings(
            url=f"localhost:{server.port}",
            tls=both,
            request_count=3,
            parameters=GenerationParameters(max_tokens=2),
        )
        outcome = measure(settings, "latency")
    assert outcome.complete, outcome.failure


def test_silence_is_counted_and_ends_a_run_that_has_nothing_else(server: FakeServer) -> None:
    answers = server.respond
    server.respond = lambda r: [Hang()] if len(server.requests) == 3 else answers(r)
    report = document(run(server, timeout=Timeout(first_token=0.2)))
    assert report["complete"] and report["runs"][0]["errors"] == {"FirstTokenTimeout": 1}
    assert server.requests[2].cancelled.wait(5)
    server.respond = lambda _request: [Say("a", (1,)), Hang()]
    outcome = run(server, loads=(Concurrency(4),), request_count=100, timeout=Timeout(idle=0.2))
    assert isinstance(outcome.failure, RequestTimeout) and len(server.requests) < 40


def test_a_server_that_dies_in_an_open_loop_leaves_what_was_measured() -> None:
    def dies(request: Received) -> Iterator[Step]:
        if len(server.requests) > 10:
            yield Say("part", (1,))
            yield Fail("Socket closed", "UNAVAILABLE")
        yield from words(request)

    with FakeServer(dies) as server:
        outcome = run(server, loads=(Rate(50),), request_count=100)
    report = document(outcome)
    assert isinstance(outcome.failure, IncompleteStream) and outcome.failure.text == "part"
    assert report["complete"] is False and report["runs"][0]["requests"]["succeeded"] >= 8


# --- the command line ---


def test_a_sweep_and_its_report(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    argv = ["bench", "throughput", "-u", server.url, "--concurrency", "1:4:x2", "--request-count", "6"]
    argv += ["--max-tokens", "4", "--gpu-hour-price", "2", "--goodput", "ttft:5000", "-o", str(path)]
    assert cli.run(argv) == 0
    report = json.loads(path.read_text())
    assert [made["load"]["value"] for made in report["runs"]] == [1, 2, 4]
    assert all(made["cost_per_million_output_tokens"] > 0 for made in report["runs"])
    assert all(made["goodput"]["share"] == 1 for made in report["runs"])
    assert report["kind"] == "throughput" and report["settings"]["loads"][1]["value"] == 2
    assert "concurrency 4" in capsys.readouterr().out


def test_a_search_reports_the_highest_rate(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    server.respond = lambda r: [Say("a", (1,), final=True)]
    argv = ["bench", "throughput", "-u", server.url, "--find-rate", "20:40", "--goodput", "latency:20000"]
    argv += ["--request-count", "10", "--max-tokens", "1", "--arrival", "constant", "-o", str(path)]
    assert cli.run(argv) == 0
    report = json.loads(path.read_text())
    assert report["slo"]["highest_rate"] == 40 and [s["rate"] for s in report["slo"]["steps"]] == [20, 40]
    argv[argv.index("latency:20000")] = "latency:0.001"
    assert cli.run(argv) == 0
    report = json.loads(path.read_text())
    assert report["slo"]["highest_rate"] is None and len(report["runs"]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["latency", "throughput"])
def test_an_interrupted_run_leaves_a_report_marked_incomplete(
    server: FakeServer, tmp_path: Path, verb: str, number: int
) -> None:
    path = tmp_path / "report.json"
    argv = ["bench", verb, "-u", server.url, "--max-tokens", "4", "-o", str(path), "--concurrency", "2"]
    code, _, err = interruption.interrupted(
        [*argv, "--request-count", "100000"], lambda: len(server.requests) > 12, number
    )
    assert code == 130 and b"Traceback" not in err, err
    report = json.loads(path.read_text())
    assert report["complete"] is False and report["failure"]["type"] == "KeyboardInterrupt"
    assert report["runs"][0]["requests"]["succeeded"] >= 5 and report["runs"][0]["requests"]["cut_off"] <= 2


@pytest.mark.parametrize(
    "argv",
    [
        ["latency", "--concurrency", "0"],
        ["latency", "--concurrency", "1.5"],
        ["latency", "--concurrency", "1", "--request-rate", "1"],
        ["throughput", "--duration", "5", "--request-count", "5"],
        ["throughput", "--goodput", "speed:1"],
        ["throughput", "--find-rate", "1:8"],
        ["throughput", "--find-rate", "x", "--goodput", "ttft:1"],
        ["throughput", "--find-rate", "1:8", "--goodput", "ttft:1", "--concurrency", "2"],
        ["compare", "--concurrency", "4:1"],
        ["compare", "--num-draft-tokens", "0"],
        ["latency", "-u", "http://127.0.0.1:8000"],
        ["latency", "-u", "no address"],
    ],
)
def test_contradictory_options_are_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", *argv]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and "fix: " in err


def test_a_run_in_which_every_request_is_wrong_ends_soon(server: FakeServer) -> None:
    workload = Workload("long", "CC0-1.0", (Prompt("long", "code", "x" * (5 << 20)),))
    outcome = run(server, workload=workload, request_count=None, duration_s=60.0)
    assert isinstance(outcome.failure, InvalidRequest) and len(outcome.runs[0].samples) == 10
