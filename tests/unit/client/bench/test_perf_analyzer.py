# SPDX-License-Identifier: Apache-2.0
"""perf_analyzer's command, input file and export, without the program."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from specclient import GenerationParameters, InvalidRequest
from specclient.bench import Settings, perf_analyzer
from specclient.bench.load import Concurrency, Rate, Replay
from specclient.bench.perf_analyzer import command, export, run
from specclient.bench.server_side import ModelTotals
from specclient.bench.workload import Prompt, Workload
from specclient.contract import Contract
from specclient.reply import Decoder
from specclient.timeouts import Timeout

GREEDY = GenerationParameters(max_tokens=8, temperature=0.0)


def ask(name: str, text: str, parameters: GenerationParameters = GREEDY) -> command.Asked:
    return command.Asked(
        Prompt(name, "code", text), parameters, Contract().tensors(text.encode(), parameters)
    )


def decoder(_prompt: Prompt, _parameters: GenerationParameters) -> Decoder:
    return Decoder()


ASKED = [ask("a", "A?"), ask("b", "B?")]


def options(load: Any, **changes: Any) -> list[str]:
    settings = Settings(url="host:8001", loads=(load,), request_count=10, **changes)
    command.check(settings)
    return command.argv(
        Path("pa"), settings, settings.url, load, inputs=Path("in.json"), export=Path("out.json")
    )


def test_the_command_of_a_closed_and_of_an_open_loop() -> None:
    shared = "pa -m ensemble -u host:8001 -i grpc --streaming --async --input-data in.json"
    end = "--request-count 12 --profile-export-file out.json"
    assert shlex.join(options(Concurrency(4))) == f"{shared} --concurrency-range 4:4:1 {end}"
    rate = "--request-rate-range 0.5:0.5:1 --request-distribution poisson"
    assert shlex.join(options(Rate(0.5))) == f"{shared} {rate} {end}"


@pytest.mark.parametrize(
    ("load", "changes", "message"),
    [
        (Rate(2.0, "gamma"), {}, "no such load"),
        (
            Replay((0.0, 1.0)),
            {"workload": Workload("t", "x", (Prompt("a", "t", "b", arrival_s=0.0),))},
            "trace",
        ),
        (Concurrency(20), {}, "too few"),
        (Rate(20.0), {}, "too few"),
        (Concurrency(1), {"headers": {"authorization": "Bearer x"}}, "headers"),
        (Concurrency(1), {"token": "x"}, "token"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_starts(
    load: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings = Settings(loads=(load,), request_count=10, **changes)
    with pytest.raises(InvalidRequest, match=message):
        perf_analyzer.measure(settings, Path("/nowhere"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_the_failure(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    outcome = perf_analyzer.measure(Settings(), Path("/nowhere"), taken / "folder")
    assert isinstance(outcome.failure, perf_analyzer.PerfAnalyzerError)
    assert f"cannot write to {taken}" in str(outcome.failure) and not outcome.complete


def test_the_patience_is_the_timeout_and_the_longest_gap_between_arrivals() -> None:
    def patience(load: Any, total: float | None) -> float | None:
        return command.patience_s(Settings(loads=(load,), timeout=Timeout(total=total)), load)

    assert patience(Concurrency(4), 10.0) == 60 + 10
    assert patience(Rate(2.0), 10.0) == 60 + 10 + 15
    assert patience(Concurrency(1), None) is None


@pytest.mark.parametrize("totals", [{("m", "1"): ModelTotals(requests=3)}, None])
async def test_standing_still_ends_it(monkeypatch: pytest.MonkeyPatch, totals: Any) -> None:
    class Target:
        """Answers once, and then always with ``totals``."""

        model = "m"
        lost = None
        answers = iter([{("m", "1"): ModelTotals(requests=3)}])

        async def statistics(self) -> Any:
            return next(self.answers, totals)

    async def work() -> str:
        await asyncio.sleep(60)
        return ""

    monkeypatch.setattr(run, "WATCH_S", 0.01)
    working = asyncio.ensure_future(work())
    with pytest.raises(perf_analyzer.PerfAnalyzerError, match="no request has ended"):
        await run._guarded(working, Target(), 0.05)  # type: ignore[arg-type]
    assert working.cancelled()


def test_the_input_file_has_the_tensors_that_the_client_sends() -> None:
    parameters = GenerationParameters(
        max_tokens=5, temperature=0.7, seed=3, stop=("x", "yy"), num_draft_tokens=2
    )
    (entry,) = command.input_data([ask("a", "Grüße", parameters)])["data"]
    assert entry["text_input"] == ["Grüße"] and entry["max_tokens"] == [5]
    assert entry["stop_words"] == {"content": ["x", "yy"], "shape": [2]}
    assert entry["num_draft_tokens"] == [2] and entry["stream"] == [True]
    json.dumps(entry)


def response(tokens: list[int], so_far: int, rounds: int, **more: Any) -> dict[str, Any]:
    return {
        "text_output": "ä" * len(tokens),
        "output_ids": tokens if len(tokens) != 1 else tokens[0],
        "num_input_tokens": 2,
        "num_output_tokens": so_far,
        "num_rounds": rounds,
        "total_draft_tokens": 4 * rounds,
        "total_accepted_draft_tokens": so_far - rounds - 1,
        "finish_reason": "",
        **more,
    }


def record(text: str, sent: int, times: list[int], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "timestamp": sent,
        "request_inputs": {"text_input": text},
        "response_timestamps": times,
        "response_outputs": outputs,
    }


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"experiments": [{"requests": list(records)}]}))
    return path


def test_an_export_becomes_samples_in_the_order_of_sending(tmp_path: Path) -> None:
    second = record(
        "B?", 5_000, [6_000, 9_000], [response([7], 1, 0), response([8, 9], 3, 1, finish_reason="stop")]
    )
    first = record("A?", 1_000, [3_000, 4_000], [response([1], 1, 0), {}])
    again = record("A?", 8_000, [8_500], [response([1], 1, 0, finish_reason="length")])
    found = export.samples(write(tmp_path / "e.json", second, first, again), ASKED, decoder)
    assert [(s.prompt.id, s.position, s.sent_ns, s.ended_ns) for s in found] == [
        ("a", 0, 1_000, 4_000),
        ("b", 1, 5_000, 9_000),
        ("a", 0, 8_000, 8_500),
    ]
    answers = [s.completion for s in found]
    assert answers[0] is not None and len(answers[0].chunks) == 1  # the empty final response is none
    assert answers[1] is not None
    assert answers[1].token_ids == (7, 8, 9) and answers[1].finish_reason == "stop"
    assert answers[1].ttft == pytest.approx(1e-6) and answers[1].latency == pytest.approx(4e-6)
    assert answers[1].acceptance_length == pytest.approx(2) and answers[1].counters.num_input_tokens == 2


def test_equal_texts_get_their_positions_in_turn(tmp_path: Path) -> None:
    twice = [ASKED[0], ask("c", "A?")]
    records = [record("A?", sent, [sent + 1], [response([1], 1, 0)]) for sent in (1, 2, 3)]
    assert [s.prompt.id for s in export.samples(write(tmp_path / "e.json", *records), twice, decoder)] == [
        "a",
        "c",
        "a",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"experiments": []}',
        '{"experiments": [{}]}',
        '{"experiments": [{"requests": [{"timestamp": 1}]}]}',
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "e.json"
    file.write_text(content)
    with pytest.raises(perf_analyzer.PerfAnalyzerError, match="no export"):
        export.samples(file, ASKED, decoder)
    with pytest.raises(perf_analyzer.PerfAnalyzerError, match="wrote no export"):
        export.samples(tmp_path / "none.json", ASKED, decoder)
