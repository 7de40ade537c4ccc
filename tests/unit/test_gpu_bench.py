# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark's own arithmetic, on a small planted pair on the CPU."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from specbuild.synthetic import PlantedRecipe, plant, planted_pair
from specbuild.synthetic.planted import Plant
from specbuild.torch_runtime import Engine, Request
from support import running

FOLDER = Path(__file__).parents[1] / "gpu" / "bench"


@pytest.fixture(scope="module")
def load() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("load")


@pytest.fixture(scope="module")
def rows() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("rows")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "pair", PlantedRecipe("tiny")).folder


@pytest.fixture(scope="module")
def planted(pair: Path) -> Plant:
    return planted_pair.read(pair)


@pytest.fixture(scope="module")
def engine(pair: Path) -> Iterator[Engine]:
    with running.engine(pair / "target", pair / "draft", max_input_len=200, max_seq_len=300) as loaded:
        yield loaded


def test_speeds_are_of_all_requests_and_of_those_decoding_together(
    load: ModuleType, engine: Engine, planted: Plant
) -> None:
    prompts = load.prompts(planted, 0.8, 3, 20)
    speed = load.measure(engine, prompts, 40, 4, planted)
    assert speed.astray == 0
    assert 0 < speed.whole < math.inf
    assert 0 < speed.steady < math.inf
    assert 0 < speed.step_ms < math.inf
    assert 1 < speed.acceptance_length <= 5
    assert speed.drafted_per_round <= 4
    plain = load.measure(engine, prompts, 40, load.PLAIN, planted)
    assert plain.acceptance_length == 1
    assert plain.drafted_per_round == 0


def test_tokens_off_the_plan_are_counted(load: ModuleType, planted: Plant) -> None:
    prompt = load.prompts(planted, 0.9, 1, 5)[0]
    first = int(planted.target[prompt[-1]])
    second = int(planted.target[first])
    assert load.astray(prompt, [first, second], planted) == 0
    assert load.astray(prompt, [first, first], planted) == 1


def test_prompts_taken_as_read_cost_nothing_and_change_nothing(
    load: ModuleType, engine: Engine, planted: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = load.prompts(planted, 0.7, 1, 150)[0]
    request = Request(prompt=prompt, max_tokens=30, draft_length=4)
    expected = running.finish(engine, request)
    read: list[int] = []
    prefill = engine._pair._target.prefill

    def counting(tokens: list[int], slot: int, start: int) -> object:
        read.append(len(tokens))
        return prefill(tokens, slot, start)

    monkeypatch.setattr(engine._pair._target, "prefill", counting)
    with load.prompts_taken_as_read():
        got = running.finish(engine, request)
    assert read == [1]
    assert got.tokens == expected.tokens
    assert got.counters.rounds == expected.counters.rounds


def test_rows_survive_the_file_and_say_what_is_missing(rows: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    recorder = rows.Recorder("engine", file)
    recorder.row("plain", 150.0, "token/s", batch=4, alpha=0.8, reference=300.0, against="floor")
    recorder.row("steady", None, "token/s", batch=64, note="does not fit")
    first, second = rows.read(file)
    assert first.ratio == 0.5
    assert second.ratio is None
    header, _, one, two = rows.table([first, second]).splitlines()
    assert header.startswith("section")
    assert "0.50x" in one and "0.8" in one
    assert "-" in two and two.endswith("does not fit")
