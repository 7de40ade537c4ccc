# SPDX-License-Identifier: Apache-2.0
"""What the options say is what a server gets; a saved report can be shown again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from specbuild import cli
from specclient.bench import bundled, saved
from specclient.testing import FakeServer
from support import deployment


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def latency(server: FakeServer, output: Path, *options: str) -> int:
    return cli.run(["bench", "latency", "-u", server.url, "-o", str(output), *options])


def test_bundled_text_is_the_default_and_kinds_can_be_chosen(server: FakeServer, tmp_path: Path) -> None:
    texts = {prompt.text: prompt.kind for prompt in bundled().prompts}
    assert latency(server, tmp_path / "a.json", "--request-count", "30", "--max-tokens", "2") == 0
    assert {texts[request.prompt] for request in server.requests} == {
        "code",
        "chat",
        "summarise",
        "structured",
    }
    facts = saved.read(tmp_path / "a.json")["workload"]
    assert facts["sha256"] == bundled().sha256 and facts["licence"] == "CC0-1.0"
    server.requests.clear()
    options = ["--prompt-kind", "code", "--request-count", "8", "--max-tokens", "2"]
    assert latency(server, tmp_path / "b.json", *options) == 0
    assert {texts[request.prompt] for request in server.requests} == {"code"}


def test_a_file_gives_prompts_and_their_lengths(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "One", "max_tokens": 3}\n{"prompt": "Two"}\n')
    options = ["--input-file", str(file), "--request-count", "2", "--warmup-request-count", "0"]
    assert latency(server, tmp_path / "a.json", *options, "--max-tokens", "7") == 0
    assert {(r.prompt, r.inputs["max_tokens"]) for r in server.requests} == {("One", 3), ("Two", 7)}


def test_lengths_are_drawn_and_the_seed_fixes_them(server: FakeServer, tmp_path: Path) -> None:
    deployment.tokenizer().save(str(tmp_path / "tokenizer.json"))
    options = ["--tokenizer", str(tmp_path), "--isl", "200", "--isl-stddev", "40", "--osl", "5"]
    options += ["--osl-stddev", "2", "--request-count", "10", "--random-seed", "7"]
    runs = []
    for name in ("a", "b"):
        assert latency(server, tmp_path / f"{name}.json", *options) == 0
        runs.append([(r.prompt, r.inputs["max_tokens"]) for r in server.requests])
        server.requests.clear()
    assert sorted(runs[0]) == sorted(runs[1])
    assert len({len(text.encode()) for text, _ in runs[0]}) > 5 and len({osl for _, osl in runs[0]}) > 2
    first, second = (saved.read(tmp_path / f"{name}.json")["workload"] for name in ("a", "b"))
    assert first == second and first["shape"]["isl"] == {"mean": 200, "stddev": 40.0}


def test_random_tokens_warn_on_the_report_and_its_page(server: FakeServer, tmp_path: Path) -> None:
    deployment.tokenizer().save(str(tmp_path / "tokenizer.json"))
    options = ["--tokenizer", str(tmp_path), "--isl", "20", "--random-tokens", "--request-count", "3"]
    assert latency(server, tmp_path / "a.json", *options, "--max-tokens", "2") == 0
    assert any("distort acceptance" in text for text in saved.read(tmp_path / "a.json")["warnings"])
    assert "distort acceptance" in (tmp_path / "a.html").read_text()


def test_a_trace_is_replayed_at_its_times(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    entries = [
        {"timestamp": 1000 + 150 * i, "prompt": f"Prompt {i}", "output_length": i + 1} for i in range(5)
    ]
    file.write_text("\n".join(map(json.dumps, entries)))
    assert latency(server, tmp_path / "a.json", "--trace-file", str(file), "--warmup-request-count", "0") == 0
    report = saved.read(tmp_path / "a.json")
    assert report["runs"][0]["load"]["arrival"] == "replay"
    due = [row["scheduled_s"] for row in report["requests"]]
    assert [round((second or 0) - (due[0] or 0), 3) for second in due] == [0, 0.15, 0.3, 0.45, 0.6]
    assert [(r.prompt, r.inputs["max_tokens"]) for r in server.requests] == [
        (f"Prompt {i}", i + 1) for i in range(5)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--isl", "100"], "needs a tokenizer"),
        (["--osl-stddev", "3"], "has no mean"),
        (["--input-file", "/nowhere.jsonl"], "does not exist"),
        (["--random-tokens"], "random tokens need"),
        (["--tokenizer", "/nowhere/at/all/here"], "cannot load the tokenizer"),
        (["--prompt-kind", "poetry"], "poetry"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(
    server: FakeServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert latency(server, tmp_path / "a.json", *options) == 2
    assert message in capsys.readouterr().err and not server.requests


def test_a_saved_report_is_shown_again(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    assert latency(server, file, "--request-count", "3", "--max-tokens", "4") == 0
    page, lines = file.with_suffix(".html"), file.with_suffix(".csv")
    before = page.read_text(), lines.read_text()
    table = capsys.readouterr().out
    page.unlink()
    lines.unlink()
    assert cli.run(["bench", "report", str(file), "--html"]) == 0
    shown = capsys.readouterr()
    assert shown.out == table and str(page) in shown.err and not lines.exists()
    assert cli.run(["bench", "report", str(file)]) == 0
    assert (page.read_text(), lines.read_text()) == before
    file.write_text("{}")
    assert cli.run(["bench", "report", str(file)]) == 2
    assert "schema version" in capsys.readouterr().err


def test_forms_never_overwrite_the_report(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert latency(server, file, "--request-count", "2", "--max-tokens", "2") == 0
    assert json.loads(file.read_text())["kind"] == "latency"
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html",
        "report.html.html",
        "report.html.csv",
    }
