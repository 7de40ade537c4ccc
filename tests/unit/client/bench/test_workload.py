# SPDX-License-Identifier: Apache-2.0
"""The bundled prompts are what the report says they are; the same options give the same workload."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from specclient.bench import bundled
from specclient.bench.workload import (
    Length,
    Message,
    Prompt,
    WorkloadError,
    WorkloadOptions,
    workload_from,
)
from specclient.bench.workload.tokenizer import TextTokenizer
from support import deployment


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a byte-level tokenizer: text has about one token per byte."""
    folder = tmp_path_factory.mktemp("tokenizer")
    deployment.tokenizer().save(str(folder / "tokenizer.json"))
    return str(folder)


def test_the_bundled_prompts_are_real_text_of_four_kinds() -> None:
    workload = bundled()
    kinds = Counter(prompt.kind for prompt in workload.prompts)
    assert set(kinds) == {"code", "chat", "summarise", "structured"}
    # 100 measured and 2 of the warm-up, without any prompt twice.
    assert min(kinds.values()) >= 20 and len(workload.prompts) >= 102
    assert len({prompt.id for prompt in workload.prompts}) == len(workload.prompts)
    assert len({prompt.text for prompt in workload.prompts}) == len(workload.prompts)
    lengths = sorted(len(prompt.text) for prompt in workload.prompts)
    assert lengths[0] < 60 and lengths[-1] > 2000 and 250 < lengths[len(lengths) // 2] < 500
    assert workload.licence == "CC0-1.0"


def test_bundled_prompts_of_one_kind() -> None:
    assert {prompt.kind for prompt in bundled(["code"]).prompts} == {"code"}
    with pytest.raises(WorkloadError, match="poetry"):
        bundled(["poetry"])


def test_the_hash_changes_with_anything_that_is_sent() -> None:
    workload = bundled()
    assert workload.sha256 == bundled().sha256
    first, *others = workload.prompts
    for changed in (
        replace(first, text="x"),
        replace(first, output_tokens=1),
        replace(first, messages=(Message("user", first.text),)),
    ):
        assert replace(workload, prompts=(changed, *others)).sha256 != workload.sha256


def test_drawing_is_fixed_by_the_seed_and_uses_every_prompt_before_repeating() -> None:
    workload = bundled()
    size = len(workload.prompts)
    drawn = workload.draw(2 * size + 3, seed=3)
    assert drawn == workload.draw(2 * size + 3, seed=3) != workload.draw(2 * size + 3, seed=4)
    assert len(drawn) == 2 * size + 3
    for start in (0, size):
        assert len(set(drawn[start : start + size])) == size


def test_json_lines_of_prompts_and_messages(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = [
        {"prompt": "One\u2028line", "max_tokens": 5},
        {"text": "Two", "id": 7, "kind": "short", "ignored": [1]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Three"}]},
    ]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    file.write_text(text, encoding="utf-8")
    workload = workload_from(WorkloadOptions(input_file=file), seed=0)
    assert workload.prompts == (
        Prompt("mine-1", "file", "One\u2028line", output_tokens=5),
        Prompt("7", "short", "Two"),
        Prompt(
            "mine-3",
            "file",
            "Be brief.\n\nThree",
            messages=(Message("system", "Be brief."), Message("user", "Three")),
        ),
    )
    assert workload.facts()["name"] == "mine.jsonl" and workload.facts()["licence"] == "unknown"
    chat = workload_from(WorkloadOptions(input_file=file, chat=True), seed=0)
    assert chat.prompts[1].messages == (Message("user", "Two"),)
    assert chat.prompts[2].messages == workload.prompts[2].messages


def test_sharegpt_gives_first_questions_and_the_length_of_their_answers(
    tmp_path: Path, tokenizer: str
) -> None:
    file = tmp_path / "sharegpt.json"
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    late = [{"from": "gpt", "value": "…"}, {"from": "human", "value": "Hm"}]
    file.write_text(
        json.dumps([{"id": "a", "conversations": turns}, {"conversations": []}, {"conversations": late}])
    )
    plain = workload_from(WorkloadOptions(input_file=file), seed=0)
    assert [(p.id, p.text, p.output_tokens) for p in plain.prompts] == [
        ("a", "Why?", None),
        ("sharegpt-3", "Hm", None),
    ]
    counted = workload_from(WorkloadOptions(input_file=file, tokenizer=tokenizer), seed=0)
    assert [p.output_tokens for p in counted.prompts] == [len("Because."), None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no prompts"),
        (b"{", "line 1 is not JSON"),
        (b'{"prompt": "a"}\n[1]', "line 2 is not a JSON object"),
        (b'{"question": "a"}', "line 1 has neither a prompt"),
        (b'{"prompt": 3}', "not text"),
        (b'{"prompt": ""}', "empty"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b'{"prompt": "a", "max_tokens": 0}', "max_tokens is 0"),
        (b'{"messages": []}', "messages is no list"),
        (b'{"messages": [{"role": "user"}]}', "not text"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b"[1]", "conversation 1"),
        (b"[", "not JSON"),
    ],
)
def test_a_damaged_file_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    with pytest.raises(WorkloadError, match=message) as caught:
        workload_from(WorkloadOptions(input_file=file), seed=0)
    assert caught.value.remedy


def test_a_missing_file_or_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="No such file"):
        workload_from(WorkloadOptions(input_file=tmp_path / "none.jsonl"), seed=0)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WorkloadError, match="cannot load the tokenizer"):
        workload_from(WorkloadOptions(tokenizer=str(tmp_path)), seed=0)


def test_lengths_follow_the_distribution_and_the_text_stays_real(tokenizer: str) -> None:
    options = WorkloadOptions(tokenizer=tokenizer, isl=Length(600, 100), osl=Length(40, 8), num_prompts=300)
    workload = workload_from(options, seed=5)
    assert workload == workload_from(options, seed=5)
    assert workload.sha256 != workload_from(options, seed=6).sha256
    counter = TextTokenizer.load(tokenizer)
    counts = [counter.count(prompt.text) for prompt in workload.prompts]
    assert counts == [prompt.input_tokens for prompt in workload.prompts]
    assert fmean(counts) == pytest.approx(600, rel=0.04) and pstdev(counts) == pytest.approx(100, rel=0.2)
    outputs = [prompt.output_tokens or 0 for prompt in workload.prompts]
    assert fmean(outputs) == pytest.approx(40, rel=0.05) and pstdev(outputs) == pytest.approx(8, rel=0.25)
    # Every text is a piece of the bundled ones of its kind, joined; no two requests start alike.
    source = {prompt.id: prompt for prompt in bundled().prompts}
    for prompt in workload.prompts[: len(source)]:
        original = source[prompt.id].text
        extended = counter.count(original) < (prompt.input_tokens or 0)
        assert prompt.text.endswith(original) if extended else original.startswith(prompt.text)
    assert len({prompt.text for prompt in workload.prompts}) == 300
    facts = workload.facts()["shape"]
    assert facts["isl"] == {"mean": 600, "stddev": 100} and facts["tokenizer"]["sha256"]


def test_output_lengths_alone_need_no_tokenizer() -> None:
    workload = workload_from(WorkloadOptions(osl=Length(7)), seed=0)
    assert {prompt.output_tokens for prompt in workload.prompts} == {7}
    assert [prompt.text for prompt in workload.prompts] == [prompt.text for prompt in bundled().prompts]


def test_random_tokens_carry_their_warning(tokenizer: str) -> None:
    options = WorkloadOptions(tokenizer=tokenizer, isl=Length(50), random_tokens=True, num_prompts=20)
    workload = workload_from(options, seed=0)
    assert len(workload.prompts) == 20 and len(set(workload.prompts)) == 20
    assert fmean(prompt.input_tokens or 0 for prompt in workload.prompts) == pytest.approx(50, abs=1)
    assert any("2604.09557" in warning for warning in workload.facts()["warnings"])
    assert not workload_from(WorkloadOptions(tokenizer=tokenizer, isl=Length(50)), seed=0).warnings


def trace(path: Path, entries: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    return path


def test_a_mooncake_trace_is_replayed_with_its_lengths_and_shared_beginnings(
    tmp_path: Path, tokenizer: str
) -> None:
    file = trace(
        tmp_path / "trace.jsonl",
        [
            {"timestamp": 3500, "input_length": 700, "output_length": 9, "hash_ids": [1, 3]},
            {"timestamp": 1000, "input_length": 800, "output_length": 5, "hash_ids": [1, 2]},
            {"timestamp": 2000, "input_length": 30, "output_length": 7},
        ],
    )
    options = WorkloadOptions(trace_file=file, tokenizer=tokenizer)
    workload = workload_from(options, seed=0)
    assert [p.arrival_s for p in workload.prompts] == [0.0, 1.0, 2.5]
    assert [p.input_tokens for p in workload.prompts] == [800, 30, 700]
    assert [p.output_tokens for p in workload.prompts] == [5, 7, 9]
    assert workload.replayed and workload.draw(2, seed=9) == list(workload.prompts[:2])
    first, _, third = (p.text for p in workload.prompts)
    counter = TextTokenizer.load(tokenizer)
    shared = next(i for i, (a, b) in enumerate(zip(first, third, strict=False)) if a != b)
    assert counter.count(first[:shared]) == pytest.approx(512, abs=12)
    seconds = workload_from(replace(options, trace_unit="s", num_prompts=2), seed=0)
    assert [p.arrival_s for p in seconds.prompts] == [0.0, 1000.0]


def test_a_trace_may_bring_its_prompts(tmp_path: Path) -> None:
    file = trace(tmp_path / "t.jsonl", [{"timestamp": 0, "prompt": "Hi"}, {"timestamp": 5, "prompt": "Ho"}])
    workload = workload_from(WorkloadOptions(trace_file=file, trace_unit="s"), seed=0)
    assert [(p.text, p.arrival_s) for p in workload.prompts] == [("Hi", 0.0), ("Ho", 5.0)]
    assert workload.licence == "unknown"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"prompt": "a"}, "timestamp is None"),
        ({"timestamp": "1", "prompt": "a"}, "timestamp is '1'"),
        ({"timestamp": float("inf"), "prompt": "a"}, "timestamp is inf"),
        ({"timestamp": 1}, "neither a prompt nor an input_length"),
        ({"timestamp": 1, "input_length": 5}, "needs a tokenizer"),
    ],
)
def test_a_damaged_trace_is_refused(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        workload_from(WorkloadOptions(trace_file=trace(tmp_path / "t.jsonl", [entry])), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isl": Length(5)}, "needs a tokenizer"),
        ({"kinds": ("code",), "input_file": Path("x")}, "kinds"),
        ({"isl": Length(5), "tokenizer": "x", "trace_file": Path("x")}, "trace"),
        ({"random_tokens": True}, "random tokens need"),
    ],
)
def test_contradicting_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        WorkloadOptions(**options)  # type: ignore[arg-type]


def test_a_workload_with_lengths_imports_neither_transformers_nor_torch(tokenizer: str) -> None:
    program = (
        "import sys; from specclient.bench.workload import *; assert 'tokenizers' not in sys.modules;"
        f"workload_from(WorkloadOptions(tokenizer={tokenizer!r}, isl=Length(50)), seed=0);"
        "assert not {'transformers', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
