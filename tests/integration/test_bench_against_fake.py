# SPDX-License-Identifier: Apache-2.0
"""The harness over a real connection to a server with known delays: what it reports is the truth."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specbuild import cli
from specclient import GenerationParameters, InvalidRequest, ModelNotFound
from specclient.bench import Concurrency, Progress, Settings, compare, document
from specclient.testing import Fail, FakeServer, Received, Say, Step, words
from support import endpoints
from support.interruption import interrupted

FIRST, GAP, BURST = 0.05, 0.06, 3


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(functools.partial(words, first=FIRST, gap=GAP, burst=BURST, accepted=0.5)) as server:
        yield server


def settings(server: FakeServer, **changes: Any) -> Settings:
    given = {"request_count": 4, "warmup_request_count": 1, **changes}
    parameters = GenerationParameters(max_tokens=given.pop("max_tokens", 31), temperature=0)
    loads = (Concurrency(given.pop("concurrency", 1)),)
    return Settings(loads=loads, url=server.url, parameters=given.pop("parameters", parameters), **given)


@pytest.mark.timing
@pytest.mark.parametrize("concurrency", [1, 4])
def test_known_delays_are_reported_as_they_are(server: FakeServer, concurrency: int) -> None:
    report = document(compare(settings(server, request_count=8, concurrency=concurrency)))
    assert report["complete"]
    baseline, speculative = report["baseline"], report["speculative"]
    # Medians: a loaded machine delays some requests, not most. The first chunk has no gap to catch up in.
    assert FIRST * 1e3 <= baseline["ttft_ms"]["p50"] <= 3 * FIRST * 1e3
    assert baseline["tpot_ms"]["p50"] == pytest.approx(GAP * 1e3, rel=0.05)
    assert baseline["inter_chunk_ms"]["p50"] == pytest.approx(GAP * 1e3, rel=0.05)
    chunks = -(-31 // BURST)
    expected = GAP * (chunks - 1) / 30
    assert speculative["tpot_ms"]["p50"] == pytest.approx(expected * 1e3, rel=0.05)
    assert speculative["tokens_per_chunk"]["mean"] == pytest.approx(31 / chunks)
    assert report["speedup"]["p50"] == pytest.approx(GAP / expected, rel=0.05)
    assert report["speedup"]["verdict"] == ("faster" if concurrency == 1 else "inconclusive")
    assert report["draft_acceptance_rate"] == pytest.approx(0.5)
    assert report["acceptance_length"] == pytest.approx(3)
    assert report["greedy_identical"] is True
    assert [run["requests"]["succeeded"] for run in report["runs"]] == [8, 8]
    total = min(concurrency, 8) * 31 / (FIRST + 30 * GAP)
    assert baseline["tokens_per_second"] == pytest.approx(total, rel=0.15)


def test_both_arms_get_the_same_prompts_in_alternating_order(server: FakeServer) -> None:
    compare(settings(server, request_count=4, warmup_request_count=1, max_tokens=2))
    sent = [(r.prompt, r.inputs.get("num_draft_tokens")) for r in server.requests]
    assert [draft for _, draft in sent] == [0, None, 0, None, None, 0, 0, None, None, 0]
    prompts = [prompt for prompt, _ in sent]
    assert prompts[::2] == prompts[1::2] and len(set(prompts)) == 5


def test_requests_of_both_arms_never_overlap_at_higher_concurrency(server: FakeServer) -> None:
    compare(settings(server, request_count=8, concurrency=4, warmup_request_count=0, max_tokens=2))
    drafts = [request.inputs.get("num_draft_tokens") for request in server.requests]
    assert drafts == [0] * 8 + [None] * 8


def test_warm_up_is_sent_but_not_measured(server: FakeServer) -> None:
    seen: list[Progress] = []
    comparison = compare(settings(server, request_count=2, warmup_request_count=3, max_tokens=2), seen.append)
    assert len(server.requests) == 10 and sum(len(run.measured) for run in comparison.runs) == 4
    assert [state.phase for state in seen] == ["warm-up"] * 6 + ["measuring"] * 4
    assert [state.done for state in seen] == list(range(1, 11)) and seen[0].total == 10


def test_sampled_pairs_share_a_seed_and_differ_from_pair_to_pair(server: FakeServer) -> None:
    sampled = GenerationParameters(max_tokens=2, temperature=0.8)
    compare(settings(server, parameters=sampled, request_count=3, warmup_request_count=0, seed=0))
    seeds = [request.inputs["seed"] for request in server.requests]
    assert seeds == [0, 0, 1, 1, 2, 2]


def test_a_single_failing_request_is_counted_beside_the_figures(server: FakeServer) -> None:
    answers = server.respond
    count = iter(range(100))

    def sometimes(request: Received) -> Any:
        return [Fail("out of memory")] if next(count) == 2 else answers(request)

    server.respond = sometimes
    report = document(compare(settings(server, warmup_request_count=0, max_tokens=4)))
    assert report["complete"] is True
    assert sorted(run["requests"]["succeeded"] for run in report["runs"]) == [3, 4]
    assert report["speedup"]["pairs"] == 3
    assert [r["error"] for r in report["requests"] if r["error"]] == ["ServerFailure"]


def test_when_nothing_is_answered_the_first_error_is_the_result(server: FakeServer) -> None:
    server.respond = lambda _request: [Fail("max_tokens: too many", "INVALID_ARGUMENT")]
    comparison = compare(settings(server))
    assert isinstance(comparison.failure, InvalidRequest) and not comparison.complete
    comparison = compare(settings(server, model="no-such"))
    assert isinstance(comparison.failure, ModelNotFound)


def test_a_speculative_arm_without_drafts_is_refused_or_noted(server: FakeServer) -> None:
    with pytest.raises(InvalidRequest, match="num_draft_tokens"):
        compare(settings(server, parameters=GenerationParameters(num_draft_tokens=0)))
    server.respond = lambda r: [Say("a", (1,)), Say("b", (2,), final=True)]
    assert any("drafted no token" in note for note in document(compare(settings(server)))["warnings"])


# --- the command line ---


def run(*argv: str) -> int:
    return cli.run(list(argv))


def test_generate_streams_text_and_ends_with_a_line_of_figures(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "hi", "-u", server.url, "--max-tokens", "6", "--stop", "x", "--seed", "0") == 0
    out, err = capsys.readouterr()
    first = sum(b"hi") % 1000
    assert out == "".join(f"w{first + i} " for i in range(6)) + "\n"
    assert err.startswith("6 tokens · TTFT ") and "TPOT" in err and "acceptance length 3.00" in err
    assert server.requests[0].inputs["stop_words"] == ("x",) and server.requests[0].inputs["seed"] == 0


def test_generate_as_json_and_without_speculation(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "hi", "-u", server.url, "--num-draft-tokens", "0", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["num_output_tokens"], document["acceptance_length"]) == (128, None)
    assert document["finish_reason"] == "length" and document["ttft_ms"] > 0


def test_generate_takes_the_address_from_a_configuration(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pair.yaml"
    assert run("init", "demo", "-o", str(path)) == 0
    path.write_text(path.read_text().replace("grpc_port: 8001", f"grpc_port: {server.port}"))
    assert run("generate", "hi", "--config", str(path), "--max-tokens", "1") == 0
    assert capsys.readouterr().out.startswith("w")


def command(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "specbuild", *argv], capture_output=True, timeout=60, check=False, **options
    )


def test_generate_reads_a_prompt_from_stdin_and_refuses_what_is_no_text(server: FakeServer) -> None:
    done = command("generate", "-", "-u", server.url, "--max-tokens", "1", input="héllo\n".encode())
    assert done.returncode == 0 and server.requests[0].prompt == "héllo\n"
    done = command("generate", "-", "-u", server.url, input=b"\xff\xfe")
    assert done.returncode == 2 and b"not UTF-8" in done.stderr
    done = command("generate", b"caf\xe9", "-u", server.url)  # type: ignore[arg-type]
    assert done.returncode == 1 and b"surrogate" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [["generate", "hi"], ["bench", "compare", "--output", "report.json"]])
def test_no_server_is_an_error_with_a_remedy(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*argv, "-u", f"127.0.0.1:{endpoints.free_port()}") == 1
    err = capsys.readouterr().err
    assert "cannot connect" in err and "fix: " in err and "Traceback" not in err


def test_generate_speaks_http_and_chat_with_a_token(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "[{{ messages[0].content }}]"})
    )
    (tmp_path / "token").write_text("t0k\n")
    server.token = "t0k"
    argv = ["generate", "hi", "-u", server.http_url, "--max-tokens", "3", "--chat-template", str(tmp_path)]
    assert run(*argv) == 1 and "bearer token" in capsys.readouterr().err
    assert run(*argv, "--token-file", str(tmp_path / "token"), "--min-tokens", "2") == 0
    assert (server.requests[0].prompt, server.requests[0].inputs["min_tokens"]) == ("[hi]", 2)
    assert run(*argv, "--tls-private-key", str(tmp_path / "token")) == 2
    assert "mutual TLS is half given" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_generate_cancels_the_request_and_exits_130(server: FakeServer, number: int) -> None:
    server.respond = lambda _request: iter([Say("a ", (1,), after=0.02)] * 2000)
    code, _, err = interrupted(["generate", "hi", "-u", server.url], lambda: bool(server.requests), number)
    assert code == 130 and b"Traceback" not in err, err
    assert server.requests[0].cancelled.wait(5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_comparison_leaves_a_report_marked_incomplete(
    server: FakeServer, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "deep" / "report.json"
    argv = ["bench", "compare", "-u", server.url, "--max-tokens", "4", "--output", str(path)]
    code, out, err = interrupted(
        [*argv, "--request-count", "1000"], lambda: len(server.requests) > 12, number
    )
    assert code == 130 and b"Traceback" not in err
    report = json.loads(path.read_text())
    assert report["complete"] is False and report["failure"]["type"] == "KeyboardInterrupt"
    assert report["speedup"]["pairs"] >= 2 and b"ended early" in out


def test_a_server_that_dies_leaves_a_report_marked_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    def until_the_end(request: Received) -> Iterator[Step]:
        if len(server.requests) > 8:
            yield Say("part", (1,))
            yield Fail("Socket closed", "UNAVAILABLE")
        yield from words(request, gap=GAP)  # without gaps a token may take no time, and no pair counts

    with FakeServer(until_the_end) as server:
        argv = ["bench", "compare", "-u", server.url, "--max-tokens", "4", "-o", str(path)]
        assert run(*argv) == 1
    report = json.loads(path.read_text())
    assert report["complete"] is False and report["failure"]["type"] == "IncompleteStream"
    assert report["speedup"]["pairs"] >= 1


def test_compare_prints_saves_and_names_its_report(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", "compare", "-u", server.url, "--max-tokens", "7", "--request-count", "3"]
    assert run(*argv, "--artifact-dir", str(tmp_path)) == 0
    out, err = capsys.readouterr()
    (path,) = tmp_path.glob("compare-*.json")
    assert "speed-up" in out and str(path) in err
    assert json.loads(path.read_text())["settings"]["parameters"]["temperature"] is None
    assert run(*argv, "--output", str(tmp_path / "x.json"), "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out) == json.loads((tmp_path / "x.json").read_text())
    assert json.loads(out)["greedy_identical"] is True


@pytest.mark.parametrize(
    "argv",
    [
        ["generate"],
        ["generate", "x", "--max-tokens", "0"],
        ["generate", "x", "--top-p", "2"],
        ["generate", "x", "--temperature", "-1"],
        ["bench", "compare", "--concurrency", "0"],
        ["bench", "nothing"],
    ],
)
def test_wrong_usage_exits_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 2
    assert "Traceback" not in capsys.readouterr().err
