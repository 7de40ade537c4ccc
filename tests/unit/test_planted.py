# SPDX-License-Identifier: Apache-2.0
"""Planted pairs: what is written, and that models, prediction and runtime follow what was planted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from specbuild import artifacts, cli, pairing
from specbuild.checkpoint import Checkpoint
from specbuild.errors import ConfigError
from specbuild.planning import speedup
from specbuild.synthetic import PLANTED_SHAPES, PlantedRecipe, plant, planted_pair, predict_greedy
from specbuild.synthetic.planted import Plant
from specbuild.synthetic.tokenizer import BOS_ID, EOS_ID
from specbuild.torch_runtime import Engine, Request, Sampling
from support import running

ALPHAS = (0.6, 0.8)
TOKENS = 200
VOCAB_SIZE = PLANTED_SHAPES["tiny"].vocab_size


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "pair", PlantedRecipe("tiny", ALPHAS)).folder


@pytest.fixture(scope="module")
def planted(pair: Path) -> Plant:
    return planted_pair.read(pair)


@pytest.fixture(scope="module")
def models(pair: Path) -> dict[str, PreTrainedModel]:
    return {name: AutoModelForCausalLM.from_pretrained(pair / name).eval() for name in ("target", "draft")}


@pytest.fixture(scope="module")
def engine(pair: Path) -> Iterator[Engine]:
    with running.engine(
        pair / "target", pair / "draft", max_batch_size=8, max_input_len=64, max_seq_len=1024
    ) as loaded:
        yield loaded


def test_cycles_partition_the_vocabulary_and_err_exactly_as_often_as_planned(planted: Plant) -> None:
    tokens = [token for cycle in planted.cycles for token in cycle.tokens]
    assert sorted(tokens) == [token for token in range(VOCAB_SIZE) if token not in (BOS_ID, EOS_ID)]
    for asked, cycle in zip(ALPHAS, planted.cycles, strict=True):
        index = torch.tensor(cycle.tokens)
        assert planted.target[index].tolist() == [*cycle.tokens[1:], cycle.tokens[0]]
        agreed = (planted.target[index] == planted.draft[index]).float().mean()
        assert float(agreed) == pytest.approx(cycle.alpha)
        assert cycle.alpha == pytest.approx(asked, abs=0.5 / len(cycle.tokens))
        assert set(planted.draft[index].tolist()) <= set(cycle.tokens)


@pytest.mark.parametrize("name", ["target", "draft"])
def test_transformers_loads_the_model_and_finds_the_planted_successors(
    models: dict[str, PreTrainedModel], planted: Plant, name: str
) -> None:
    every = torch.arange(VOCAB_SIZE)[:, None]
    with torch.inference_mode():
        probabilities = models[name](every).logits[:, -1].float().softmax(-1)
    best = probabilities.max(-1)
    assert torch.equal(best.indices, planted.target if name == "target" else planted.draft)
    assert float(best.values.min()) > 1 - 1e-6  # so that sampling accepts what greedy decoding accepts


def test_the_context_before_the_last_token_changes_nothing(
    models: dict[str, PreTrainedModel], planted: Plant
) -> None:
    prompt = planted.cycles[0].prompt(40, seed=1)
    with torch.inference_mode():
        last = models["target"](torch.tensor([prompt])).logits[0, -1]
        alone = models["target"](torch.tensor([prompt[-1:]])).logits[0, -1]
    assert torch.equal(last, alone)


def test_layers_compute_with_ordinary_numbers(models: dict[str, PreTrainedModel]) -> None:
    for name, weight in models["target"].named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight")):
            deviation = float(weight.detach().float().std()) * math.sqrt(weight.shape[1])
            assert 0.9 < deviation < 1.1, name
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            assert not weight.any(), name


@pytest.mark.parametrize(
    ("draft_length", "sampling"),
    [(1, Sampling()), (4, Sampling()), (8, Sampling()), (4, Sampling(temperature=1.0, seed=7))],
    ids=["1", "4", "8", "4 sampled"],
)
def test_measured_acceptance_is_the_predicted_one_to_the_token(
    engine: Engine, pair: Path, planted: Plant, draft_length: int, sampling: Sampling
) -> None:
    for cycle in planted.cycles:
        prompts = [cycle.prompt(20, seed) for seed in range(4)]
        requests = [
            Request(prompt=prompt, max_tokens=TOKENS, draft_length=draft_length, sampling=sampling)
            for prompt in prompts
        ]
        done = running.finish_all(engine, requests)
        for prompt, one in zip(prompts, done, strict=True):
            expected, token = [], prompt[-1]
            for _ in range(TOKENS):
                token = int(planted.target[token])
                expected.append(token)
            assert one.tokens == expected
        foreseen = predict_greedy(
            pair, [prompt[-1] for prompt in prompts], tokens=TOKENS, draft_length=draft_length
        )
        assert sum(one.counters.rounds for one in done) == foreseen.rounds
        assert sum(one.counters.accepted for one in done) == foreseen.accepted
        # And the planted share, within what 4 walks of 200 tokens can differ from independent draws.
        length = 1 + foreseen.accepted / foreseen.rounds
        assert length == pytest.approx(speedup.tokens_per_round(cycle.alpha, draft_length), rel=0.2)


def test_the_tokenizer_writes_every_token_as_a_text_that_reads_back(pair: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pair / "target")
    assert len(tokenizer) == VOCAB_SIZE
    ids = list(range(2, VOCAB_SIZE))
    assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
    assert tokenizer.encode("no word of it!") == [BOS_ID] * len(tokenizer.encode("no word of it!"))


def test_check_finds_nothing_wrong(pair: Path) -> None:
    from specbuild.config import Config

    settings = Config.model_validate(
        {
            "name": "planted",
            "runtime": "torch",
            "target": {"checkpoint": str(pair / "target")},
            "draft": {"checkpoint": str(pair / "draft")},
            "limits": {"max_batch_size": 2, "max_input_len": 64, "max_seq_len": 128},
            "output": str(pair.parent / "build"),
        }
    )
    target, draft = pairing.require(settings)
    assert isinstance(target, Checkpoint)
    assert target.weights.parameters == PLANTED_SHAPES["tiny"].target.parameters(VOCAB_SIZE)
    assert draft.weights.parameters == PLANTED_SHAPES["tiny"].draft.parameters(VOCAB_SIZE)


def test_the_pair_is_published_whole_and_reused(pair: Path) -> None:
    assert artifacts.damage(pair) == []
    again = plant(pair, PlantedRecipe("tiny", ALPHAS))
    assert again.reused
    assert again.acceptance["planted"] is True


def test_the_large_shape_has_llamas_sizes() -> None:
    shape = PLANTED_SHAPES["llama-8b-1b"]
    # As https://huggingface.co/meta-llama/Llama-3.1-8B says, and Llama-3.2-1B with a head of its own.
    assert shape.target.parameters(shape.vocab_size) == 8_030_261_248
    assert shape.draft.parameters(shape.vocab_size) == 1_235_814_400 + 128_256 * 2048


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (PlantedRecipe("huge"), "no planted shape 'huge'"),
        (PlantedRecipe("tiny", ()), "no probabilities"),
        (PlantedRecipe("tiny", (0.5, 1.5)), "no probabilities"),
        (PlantedRecipe("tiny", (0.5,) * 33), "too many"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tmp_path: Path, recipe: PlantedRecipe, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plant(tmp_path / "pair", recipe)
    assert not (tmp_path / "pair").exists()


def test_command_names_the_cycles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pair", "plant", "--shape", "tiny", "--alpha", "0.75", "-o", str(tmp_path / "p")]
    assert cli.run(arguments) == 0
    assert "α 0.750 from token" in capsys.readouterr().out
    assert cli.run([*arguments, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["reused"] is True
    assert document["cycles"][0]["tokens"] == VOCAB_SIZE - 2
