# SPDX-License-Identifier: Apache-2.0
"""Synthetic pairs: what is written, and that its acceptance is what acceptance.json says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from specbuild import artifacts, cli
from specbuild.errors import ConfigError, MissingDependencyError
from specbuild.planning import speedup
from specbuild.synthetic import (
    Recipe,
    bigram,
    closed_form,
    corpus,
    predict_greedy,
    synthesize,
    tokenizer,
    tour,
    weights,
)
from specbuild.synthetic.tokenizer import BOS_ID, EOS_ID
from support.synthetic import TEXT, tiny_pair

MODELS = ("target", "draft")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pair(tmp_path_factory.mktemp("synthetic") / "pair")


@pytest.fixture(scope="module")
def acceptance(pair: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((pair / "acceptance.json").read_text())
    return document


@pytest.fixture(scope="module")
def models(pair: Path) -> dict[str, PreTrainedModel]:
    return {name: AutoModelForCausalLM.from_pretrained(pair / name) for name in MODELS}


@pytest.fixture(scope="module")
def tables(models: dict[str, PreTrainedModel]) -> dict[str, torch.Tensor]:
    """The logits after each token, from the models' own forward passes over sequences of one token."""
    with torch.inference_mode():
        return {
            name: model(torch.arange(model.config.vocab_size)[:, None]).logits[:, 0].float()
            for name, model in models.items()
        }


# --- what is written ------------------------------------------------------------------------------


def test_pair_loads_in_transformers_as_bfloat16(
    models: dict[str, PreTrainedModel], acceptance: dict[str, Any]
) -> None:
    for name, model in models.items():
        assert model.dtype == torch.bfloat16
        assert model.num_parameters() == acceptance[name]["parameters"]


@pytest.mark.parametrize("name", MODELS)
def test_layers_compute_and_add_nothing(name: str, models: dict[str, PreTrainedModel]) -> None:
    tokens = torch.randint(2, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    attention: list[torch.Tensor] = []
    hook = (
        models[name]
        .model.layers[0]
        .self_attn.o_proj.register_forward_pre_hook(lambda _module, inputs: attention.append(inputs[0]))
    )
    with torch.inference_mode():
        hidden = models[name](tokens, output_hidden_states=True).hidden_states
    hook.remove()
    assert float(attention[0].float().std()) > 0.05  # the arithmetic is not on zeros
    for state in hidden[1:-1]:
        assert torch.equal(state, hidden[0])


@pytest.mark.parametrize("name", MODELS)
def test_logits_depend_on_the_last_token_only(
    name: str, models: dict[str, PreTrainedModel], tables: dict[str, torch.Tensor]
) -> None:
    tokens = torch.randint(2, 500, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = models[name](tokens).logits.float()
    torch.testing.assert_close(logits, tables[name][tokens], rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_closed_form_uses_the_logits_the_model_yields(
    name: str, models: dict[str, PreTrainedModel], tables: dict[str, torch.Tensor]
) -> None:
    ends = weights.Ends(models[name].model.embed_tokens.weight.data, models[name].lm_head.weight.data)
    torch.testing.assert_close(weights.logits(ends), tables[name], rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_special_tokens_never_follow(name: str, tables: dict[str, torch.Tensor]) -> None:
    assert float(tables[name].softmax(1)[:, [BOS_ID, EOS_ID]].max()) < 1e-10


@pytest.mark.parametrize("text", ["héllo 世界 🎉", "\t\x00\x7f\n\r\n  x", "ffi ﷽ é e\u0301", " leading"])
def test_tokenizer_round_trips_text(pair: Path, text: str) -> None:
    loaded = AutoTokenizer.from_pretrained(pair / "target")
    ids = loaded(text).input_ids
    assert ids[0] == BOS_ID
    assert loaded.decode(ids, skip_special_tokens=True) == text


@pytest.fixture(scope="module")
def trained() -> Any:
    return tokenizer.train(corpus.read(TEXT[:1]).documents, 400)


@given(text=st.text())
def test_tokenizer_round_trips_any_text(trained: Any, text: str) -> None:
    assert trained.decode(trained.encode(text).ids) == text


def test_chat_template_begins_once_and_asks_for_an_answer(pair: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(pair / "target")
    text = loaded.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|begin_of_text|># user: hi\n# assistant: "


def test_weights_can_be_read_by_another_user(pair: Path) -> None:
    assert (pair / "target" / "model.safetensors").stat().st_mode & 0o044 == 0o044


# --- its acceptance -------------------------------------------------------------------------------


def test_sampled_acceptance_agrees_with_simulated_decoding(
    tables: dict[str, torch.Tensor], acceptance: dict[str, Any]
) -> None:
    draft_length, chains, rounds, warm = 4, 1000, 36, 16
    generator = torch.Generator().manual_seed(11)
    p, q = (tables[name].softmax(1) for name in MODELS)
    context = torch.full((chains,), BOS_ID)
    accepted = torch.zeros(chains)
    for round_ in range(rounds):
        alive = torch.ones(chains, dtype=torch.bool)
        for _ in range(draft_length):
            token = torch.multinomial(q[context], 1, generator=generator)[:, 0]
            ratio = p[context, token] / q[context, token]
            kept = torch.rand(chains, generator=generator) < ratio
            residual = (p[context] - q[context]).clamp_min(0) + 1e-12
            other = torch.multinomial(residual, 1, generator=generator)[:, 0]
            accepted += (alive & kept).float() if round_ >= warm else 0
            context = torch.where(alive, torch.where(kept, token, other), context)
            alive &= kept
        bonus = torch.multinomial(p[context], 1, generator=generator)[:, 0]
        context = torch.where(alive, bonus, context)
    lengths = 1 + accepted / (rounds - warm)
    error = float(lengths.std()) / chains**0.5
    expected = acceptance["sampled"]["acceptance_length"][str(draft_length)]
    assert error < 0.025  # so that a difference of 3 % shows
    assert float(lengths.mean()) == pytest.approx(expected, abs=4 * error)


def test_sampled_alpha_is_over_the_tokens_that_sampling_visits(
    tables: dict[str, torch.Tensor], acceptance: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(12)
    p, q = (tables[name].softmax(1) for name in MODELS)
    context = torch.full((2000,), BOS_ID)
    alphas = []
    for _ in range(60):
        context = torch.multinomial(p[context], 1, generator=generator)[:, 0]
        alphas.append(torch.minimum(p, q).sum(1)[context])
    # A chain's own states are correlated: the error is taken over chains, after 20 steps to settle.
    per_chain = torch.stack(alphas[20:]).mean(0)
    error = float(per_chain.std()) / 2000**0.5
    assert error < 0.005
    assert float(per_chain.mean()) == pytest.approx(acceptance["sampled"]["alpha"], abs=4 * error)


def test_acceptance_length_is_the_textbook_formula_where_contexts_are_alike() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.4, 0.35, 0.2, 0.05])
    found = closed_form.sampled(p.log().expand(4, -1), q.log().expand(4, -1))
    assert found.alpha == pytest.approx(0.9, abs=1e-6)
    expected = [speedup.tokens_per_round(0.9, length) for length in range(1, 9)]
    assert found.acceptance_length == pytest.approx(expected, abs=1e-4)


def test_greedy_alpha_is_over_the_cycles_greedy_decoding_ends_in() -> None:
    # 0 -> 1 -> 2 -> 1 and 3 -> 3; the draft errs after 1 and after 0.
    target = torch.nn.functional.one_hot(torch.tensor([1, 2, 1, 3])).float()
    draft = torch.nn.functional.one_hot(torch.tensor([3, 3, 1, 3])).float()
    found = closed_form.greedy(target, draft, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert found.alpha == pytest.approx(0.6 * 0.5 + 0.4 * 1.0)
    assert found.alpha_on_text == pytest.approx(0.3 + 0.4)
    assert (found.cycle_length, found.cycle_share) == (2, pytest.approx(0.6))
    assert found.ties == 0


def test_ties_of_the_two_best_logits_are_counted() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0]] * 3)
    found = closed_form.greedy(logits, logits, torch.full((3,), 1 / 3))
    assert found.ties == 1
    assert found.cycle_length == 1  # the first of equals, as argmax


@pytest.mark.parametrize("draft_length", [1, 3, 8])
def test_greedy_prediction_is_what_the_models_do(
    pair: Path, models: dict[str, PreTrainedModel], draft_length: int
) -> None:
    loaded = AutoTokenizer.from_pretrained(pair / "target")
    prompts = [loaded(text).input_ids for text in ("def add(", "import os\n", "class Node:", "世界")]
    tokens, counted = 60, {"rounds": 0, "drafted": 0, "accepted": 0}
    with torch.inference_mode():
        for prompt in prompts:
            sequence = list(prompt)
            reference = (
                models["target"]
                .generate(torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False)[0]
                .tolist()
            )
            sequence.append(reference[len(prompt)])
            while len(sequence) < len(reference):
                burst = min(draft_length, len(reference) - len(sequence) - 1)
                proposed = _greedy(models["draft"], sequence, burst)
                wanted = reference[len(sequence) : len(sequence) + burst]
                agreed = [a == b for a, b in zip(proposed, wanted, strict=True)]
                kept = agreed.index(False) if False in agreed else burst
                sequence = reference[: len(sequence) + kept + 1]
                counted["rounds"] += 1
                counted["drafted"] += burst
                counted["accepted"] += kept
    found = predict_greedy(pair, [prompt[-1] for prompt in prompts], tokens=tokens, draft_length=draft_length)
    assert {name: getattr(found, name) for name in counted} == counted
    assert 0 < found.accepted < found.drafted


def _greedy(model: PreTrainedModel, sequence: list[int], count: int) -> list[int]:
    found: list[int] = []
    for _ in range(count):
        found.append(int(model(torch.tensor([sequence + found])).logits[0, -1].argmax()))
    return found


def test_greedy_prediction_converges_to_the_closed_form(pair: Path, acceptance: dict[str, Any]) -> None:
    # One draft token a round and many laps of the cycle: each round judges the context it starts at.
    figures = acceptance["greedy"]
    tokens = 200 * figures["cycle_length"]
    long = predict_greedy(pair, [BOS_ID], tokens=tokens, draft_length=tokens)
    judged = long.accepted + long.rounds  # every burst but the last ends at a refused token
    assert figures["cycle_share"] == 1.0
    assert long.accepted / judged == pytest.approx(figures["alpha"], abs=0.01)


def test_lower_draft_rank_is_accepted_less(tmp_path: Path, acceptance: dict[str, Any]) -> None:
    weak = json.loads((tiny_pair(tmp_path / "weak", draft_rank=8) / "acceptance.json").read_text())
    assert weak["sampled"]["alpha"] < acceptance["sampled"]["alpha"] - 0.1
    assert weak["greedy"]["alpha"] < acceptance["greedy"]["alpha"] - 0.1


# --- the parts ------------------------------------------------------------------------------------


def test_counts_do_not_cross_documents() -> None:
    counts = bigram.count([np.array([0, 1, 2]), np.array([2, 1, 2])], 4)
    assert counts.sum() == 4
    assert counts[1, 2] == 2
    assert counts[2, 2] == 0


def test_smoothed_table_is_a_distribution_without_zeros() -> None:
    table = bigram.smooth(bigram.count([np.array([0, 1, 2, 1])], 5))
    assert float(table.probabilities.min()) > 0
    torch.testing.assert_close(table.probabilities.sum(1), torch.ones(5))


def test_full_rank_factors_reproduce_the_table() -> None:
    tokens = np.random.default_rng(3).integers(0, 40, 5000)
    table = bigram.smooth(bigram.count([tokens], 40))
    factors = bigram.factorise(table, 40, seed=0)
    found = (factors.left @ factors.right.T).softmax(1)
    torch.testing.assert_close(found, table.probabilities, rtol=1e-3, atol=1e-5)


def test_tour_is_a_cycle_of_likely_successors() -> None:
    table = bigram.smooth(bigram.count([np.random.default_rng(4).integers(0, 200, 20_000)], 200))
    found = tour.find(table)
    likely = table.probabilities.topk(tour.BRANCHING, 1).indices.tolist()
    assert len(set(found)) == len(found) > 50
    assert all(
        following in likely[token] for token, following in zip(found, found[1:] + found[:1], strict=True)
    )


def test_target_follows_the_tour_and_the_draft_does_not_always(tables: dict[str, torch.Tensor]) -> None:
    successor = tables["target"].argmax(1).tolist()
    token, seen = successor[BOS_ID], []
    for _ in range(500):
        seen.append(token)
        token = successor[token]
    lap = len(set(seen[250:]))
    assert lap > 100
    assert 0 < int((tables["draft"].argmax(1) == tables["target"].argmax(1)).sum()) < len(successor)


# --- the folder -----------------------------------------------------------------------------------


def test_same_recipe_makes_the_same_bytes(pair: Path, tmp_path: Path) -> None:
    first, again = (artifacts.read_manifest(folder) for folder in (pair, tiny_pair(tmp_path / "again")))
    assert first is not None
    assert first == again


def test_seed_changes_the_weights_and_not_the_tokenizer(pair: Path, tmp_path: Path) -> None:
    first, other = (artifacts.read_manifest(folder) for folder in (pair, tiny_pair(tmp_path / "o", seed=1)))
    assert first is not None and other is not None
    assert first.files["target/tokenizer.json"] == other.files["target/tokenizer.json"]
    assert first.files["target/model.safetensors"] != other.files["target/model.safetensors"]


def test_second_run_reuses_an_unchanged_pair(pair: Path, tmp_path: Path) -> None:
    recipe = Recipe(shape="tiny", text=TEXT[:1])
    assert not synthesize(tmp_path / "pair", recipe).reused
    inode = (tmp_path / "pair").stat().st_ino
    again = synthesize(tmp_path / "pair", recipe)
    assert again.reused
    assert (tmp_path / "pair").stat().st_ino == inode
    assert not synthesize(tmp_path / "pair", Recipe(shape="tiny", text=TEXT[1:2])).reused


def test_folder_of_text_is_read_in_order_without_what_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b" * 10_000)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.md").write_text("é" * 10)
    (tmp_path / "image.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".hidden").write_text("h")
    assert corpus.read([tmp_path]).documents == ("é" * 10, "b" * 10_000)


def test_default_text_is_the_standard_library() -> None:
    text = corpus.read([])
    assert text.size > 2_000_000
    assert any("class ArgumentParser" in document for document in text.documents)


def _files(folder: Path) -> dict[str, Path]:
    (folder / "small.txt").write_text("hello")
    (folder / "binary.txt").write_bytes(b"\xff" * 20_000)
    (folder / "empty").mkdir()
    return {name: folder / name for name in ("missing", "small.txt", "binary.txt", "empty")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "does not exist"),
        ("small.txt", "5 bytes of text"),
        ("binary.txt", "cannot read .* as text"),
        ("empty", "0 bytes of text"),
    ],
)
def test_unusable_text_is_refused(tmp_path: Path, name: str, message: str) -> None:
    path = _files(tmp_path)[name]
    with pytest.raises(ConfigError, match=message):
        synthesize(tmp_path / "pair", Recipe(shape="tiny", text=(path,)))
    assert not (tmp_path / "pair").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shape": "huge"}, "no shape 'huge'"),
        ({"target_rank": 64}, "target rank 64"),
        ({"target_rank": 20, "draft_rank": 21}, "draft rank 21"),
        ({"draft_rank": 0}, "draft rank 0"),
        ({"vocab_size": 100}, "vocabulary size 100"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesize(tmp_path / "pair", Recipe(**{"shape": "tiny", "text": TEXT[:1], **values}))


def test_missing_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specbuild.synthetic.pair.find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match="PyTorch") as caught:
        synthesize(tmp_path / "pair", Recipe(shape="tiny", text=TEXT[:1]))
    assert "specbuild[torch]" in caught.value.remedy


def test_command_prints_the_acceptance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pair", "synthesize", "--shape", "tiny", "--text", str(TEXT[0]), "-o", str(tmp_path / "p")]
    assert cli.run(arguments) == 0
    assert "α sampled 0." in capsys.readouterr().out
    assert cli.run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["reused"] is True
    assert document["synthetic"] is True
    assert 0 < document["greedy"]["alpha"] < document["sampled"]["alpha"] < 1


def test_command_refuses_a_missing_text_with_exit_code_2(tmp_path: Path) -> None:
    assert cli.run(["pair", "synthesize", "-o", str(tmp_path / "p"), "--text", str(tmp_path / "no")]) == 2
