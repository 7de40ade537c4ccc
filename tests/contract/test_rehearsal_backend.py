# SPDX-License-Identifier: Apache-2.0
"""The stand-in for NVIDIA's backend keeps its contract: what it answers, and what it refuses.

Rules and words are those of triton_backend/inflight_batcher_llm/src and cpp/tensorrt_llm of TensorRT-LLM 1.2;
the names and types of tensors and parameters come from the contract file that the repository is checked with.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from specbuild.errors import EngineError
from specbuild.rehearsal import limits
from specbuild.rehearsal.ask import RefusedError
from specbuild.rehearsal.engine import RehearsalEngine
from specbuild.rehearsal.limits import EngineLimits
from specbuild.repository import modelconfig
from support import tiny_models
from support.engine_repository import write_engine
from support.loop import word_list
from support.triton import MODEL_REPOSITORY

VOCABULARY = tiny_models.VOCAB_SIZE
PROMPT = (5, 9, 13, 21)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    tiny_models.save(folder / "weights", "llama", seed=3)  # its output does not repeat itself
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
    write_engine(
        folder / "engine",
        draft_length=5,
        max_input_len=96,
        max_seq_len=96 + 5,
        max_batch_size=4,
        gather_generation_logits=True,
        **{f"pretrained_{name}": value for name, value in shape.items()},
        pretrained_vocab_size=VOCABULARY,
        pretrained_head_size=8,
        pretrained_intermediate_size=48,
    )
    return folder


def model(folder: Path, **parameters: str) -> dict[str, Any]:
    """The generated target model as Triton presents it, with the engine in ``folder``."""
    message = modelconfig.read(MODEL_REPOSITORY / "tensorrt_llm")

    def tensors(side: Any) -> list[dict[str, Any]]:
        return [{"name": one.name, "data_type": modelconfig.data_type(one.data_type)} for one in side]

    values = {key: value.string_value for key, value in message.parameters.items()}
    values |= {"gpt_model_path": str(folder / "engine"), **parameters}
    return {
        "model_transaction_policy": {"decoupled": True},
        "input": tensors(message.input),
        "output": tensors(message.output),
        "parameters": {key: {"string_value": value} for key, value in values.items()},
    }


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[RehearsalEngine]:
    loaded = RehearsalEngine.load(limits.read(model(folder)), folder / "weights", threads=1)
    yield loaded
    loaded.close()


class Caller:
    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[tuple[Mapping[str, np.ndarray], bool]] = queue.SimpleQueue()
        self.left = False

    def send(self, tensors: Mapping[str, np.ndarray], *, final: bool) -> None:
        self.answers.put((tensors, final))

    def fail(self, error: Exception) -> None:
        raise error

    def gone(self) -> bool:
        return self.left


def tensors(prompt: tuple[int, ...] = PROMPT, length: int = 8, **fields: Any) -> dict[str, np.ndarray]:
    made = {
        "input_ids": np.array([prompt], np.int32),
        "input_lengths": np.array([[len(prompt)]], np.int32),
        "request_output_len": np.array([[length]], np.int32),
        "exclude_input_in_output": np.array([[True]]),
    }
    return made | {
        name: value if isinstance(value, np.ndarray) else np.array([[value]])
        for name, value in fields.items()
    }


def ask(engine: RehearsalEngine, **fields: Any) -> Mapping[str, np.ndarray]:
    """The only answer to a request."""
    caller = Caller()
    engine.submit("1", tensors(**fields), caller)
    answer, final = caller.answers.get(timeout=20)
    assert final
    return answer


def ids(answer: Mapping[str, np.ndarray]) -> list[int]:
    assert answer["output_ids"].shape[:2] == (1, 1)
    assert answer["sequence_length"].item() == answer["output_ids"].shape[2]
    return list(answer["output_ids"].reshape(-1).tolist())


def drafted(*tokens: int) -> np.ndarray:
    return np.array([tokens], np.int32)


def test_a_right_draft_comes_back_with_one_token_more(engine: RehearsalEngine) -> None:
    plain = ids(ask(engine, length=6))
    assert ids(ask(engine, length=6, draft_input_ids=drafted(*plain[:5]))) == plain


@pytest.mark.parametrize("wrong", range(5))
def test_a_wrong_draft_token_is_replaced_and_ends_the_request(engine: RehearsalEngine, wrong: int) -> None:
    plain = ids(ask(engine, length=6))
    draft = [*plain[:wrong], (plain[wrong] + 1) % VOCABULARY, *plain[wrong + 1 : 5]]
    assert ids(ask(engine, length=6, draft_input_ids=drafted(*draft))) == plain[: wrong + 1]


def test_an_end_token_is_not_returned_and_neither_is_one_in_the_draft(engine: RehearsalEngine) -> None:
    plain = ids(ask(engine, length=6))
    end = plain[3]
    cut = plain[: plain.index(end)]
    assert ids(ask(engine, length=6, end_id=end)) == cut
    assert ids(ask(engine, length=6, end_id=end, draft_input_ids=drafted(*plain[:5]))) == cut


def test_min_tokens_holds_the_end_back_but_not_a_stop_word(engine: RehearsalEngine) -> None:
    plain = ids(ask(engine, length=6))
    assert len(ids(ask(engine, length=6, end_id=plain[0], min_tokens=4))) >= 4
    stopped = ids(ask(engine, length=6, min_tokens=6, stop_words_list=word_list([plain[1:3]])))
    assert stopped == plain[:3]


def test_stop_words_may_begin_in_the_prompt_and_are_returned(engine: RehearsalEngine) -> None:
    first = ids(ask(engine, length=1))[0]
    assert ids(ask(engine, stop_words_list=word_list([[1, 2], [PROMPT[-1], first]]))) == [first]


def test_bias_bad_words_and_penalties_change_the_choice(engine: RehearsalEngine) -> None:
    plain = ids(ask(engine, length=4))
    bias = np.zeros((1, VOCABULARY), np.float32)
    bias[0, 33] = 1e4
    assert ids(ask(engine, length=4, embedding_bias=bias)) == [33] * 4
    assert plain[0] not in ids(ask(engine, length=4, bad_words_list=word_list([[plain[0]]])))
    penalised = ask(engine, length=4, repetition_penalty=np.array([[50.0]], np.float32), embedding_bias=bias)
    assert ids(penalised)


def test_without_exclude_input_the_answer_begins_with_the_input(engine: RehearsalEngine) -> None:
    plain = ids(ask(engine, length=3))
    with_input = ask(engine, length=3, exclude_input_in_output=False)
    assert ids(with_input) == [*PROMPT, *plain]


def test_a_stream_holds_only_what_is_new(engine: RehearsalEngine) -> None:
    plain = ids(ask(engine, length=5))
    caller = Caller()
    engine.submit("1", tensors(length=5, streaming=True, exclude_input_in_output=False), caller)
    answers = [caller.answers.get(timeout=20) for _ in range(5)]
    assert [ids(answer) for answer, _ in answers] == [[token] for token in plain]
    assert [final for _, final in answers] == [False] * 4 + [True]


def test_log_probs_logits_and_metrics_come_when_asked_for(engine: RehearsalEngine) -> None:
    bare = ask(engine, length=4)
    assert set(bare) == {"output_ids", "sequence_length"}
    asked = ask(
        engine,
        length=4,
        return_log_probs=True,
        return_generation_logits=True,
        return_perf_metrics=True,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
    )
    assert asked["generation_logits"].shape == (1, 1, 4, VOCABULARY)
    assert asked["output_log_probs"].shape == (1, 1, 4)
    assert asked["cum_log_probs"].item() == pytest.approx(asked["output_log_probs"].sum(), rel=1e-5)
    assert (asked["num_input_tokens"].item(), asked["num_output_tokens"].item()) == (len(PROMPT), 4)
    assert asked["first_scheduled_time_ns"] <= asked["first_token_time_ns"] < asked["last_token_time_ns"]


def test_a_text_that_grows_is_computed_once(engine: RehearsalEngine) -> None:
    prompt = tuple(range(2, 70))
    first = ask(engine, prompt=prompt, length=1)
    again = ask(engine, prompt=(*prompt, *ids(first)), length=1, return_perf_metrics=True)
    assert again["kv_cache_reused_blocks"].item() == len(prompt) // 32


def test_the_seed_decides_and_its_default_is_zero(engine: RehearsalEngine) -> None:
    def sampled(**fields: Any) -> list[int]:
        return ids(ask(engine, length=12, runtime_top_p=np.array([[1.0]], np.float32), **fields))

    assert sampled() == sampled(seed=0) == sampled()
    assert len({tuple(sampled(seed=seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize(("logits", "keeps"), [(True, True), (False, False)], ids=["with logits", "without"])
def test_only_with_draft_logits_a_sampled_draft_keeps_the_distribution(
    engine: RehearsalEngine, logits: bool, keeps: bool
) -> None:
    """As in TensorRT-LLM 1.2, where a mismatch without logits is followed by a draw from everything."""
    answer = ask(engine, length=1, return_generation_logits=True)
    scores = answer["generation_logits"].reshape(-1).astype(np.float64)
    p = np.exp(scores - scores.max())
    p /= p.sum()
    token = int(np.argsort(p)[-2])
    fields: dict[str, Any] = {"draft_input_ids": drafted(token)}
    if logits:
        certain = np.full((1, 1, VOCABULARY), -1e30, np.float32)
        certain[0, 0, token] = 0
        fields["draft_logits"] = certain
    number = 1500
    first = [
        ids(ask(engine, length=2, seed=seed, runtime_top_p=np.array([[1.0]], np.float32), **fields))[0]
        for seed in range(number)
    ]
    test = stats.binomtest(first.count(token), number, p[token])
    assert bool(test.pvalue > 1e-3) is keeps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": (1,) * 97}, r"Prompt length \(97\) exceeds maximum input length \(96\)"),
        ({"draft_input_ids": drafted(1, 2, 3, 4, 5, 6)}, r"Draft tokens length \(6\) exceeds maximum"),
        ({"length": 0}, "max_tokens"),
        ({"beam_width": 2}, "beam width 2 is larger than configured max beam width 1"),
        ({"return_context_logits": True, "draft_input_ids": drafted(1)}, "context logits are not supported"),
        ({"return_context_logits": True}, "gather_context_logits"),
        ({"embedding_bias": np.zeros((1, 7), np.float32)}, "must be of size vocab_size"),
        (
            {"draft_input_ids": drafted(1), "draft_logits": np.zeros((1, 1, 7), np.float32)},
            "Draft logits have 7 columns",
        ),
        ({"stop_words_list": np.array([[[1, 2], [2, 1]]], np.int32)}, "non-increasing offsets"),
        ({"stop_words_list": np.array([[[1, 2], [3, -1]]], np.int32)}, "out-of-bound offsets"),
        ({"input_ids": np.zeros((2, 4), np.int32)}, "Batch size > 1"),
    ],
    ids=str,
)
def test_it_refuses_what_the_backend_refuses(
    engine: RehearsalEngine, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        engine.submit("1", tensors(**fields), Caller())


def test_output_that_does_not_fit_is_shortened(engine: RehearsalEngine) -> None:
    # 5 tokens of the longest sequence are kept for the draft tokens that the engine was built for.
    assert len(ids(ask(engine, prompt=(7,) * 90, length=50))) == 6


def test_streaming_needs_a_decoupled_model(engine: RehearsalEngine, folder: Path) -> None:
    from specbuild.rehearsal import ask as asks

    with pytest.raises(RefusedError, match="decoupled mode"):
        asks.read(tensors(streaming=True), replace(engine.limits, decoupled=False))


def test_logits_need_an_engine_built_for_them(engine: RehearsalEngine) -> None:
    from specbuild.rehearsal import ask as asks

    with pytest.raises(RefusedError, match="gather_generation_logits"):
        asks.read(tensors(return_generation_logits=True), replace(engine.limits, generation_logits=False))


def test_a_stopped_request_ends_with_what_it_has(engine: RehearsalEngine) -> None:
    caller = Caller()
    engine.submit("77", tensors(length=80, streaming=True), caller)
    caller.answers.get(timeout=20)
    engine.stop("77")
    while not caller.answers.get(timeout=20)[1]:
        pass
    assert engine.load_factor() == (0, 0)


def test_a_caller_who_has_gone_frees_the_slot(engine: RehearsalEngine) -> None:
    caller = Caller()
    caller.left = True
    engine.submit("78", tensors(length=80), caller)
    _, final = caller.answers.get(timeout=20)
    assert final
    assert engine.load_factor() == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpt_model_path": "/nowhere"}, "/nowhere does not exist"),
        ({"batch_scheduler_policy": "fastest"}, "batch_scheduler_policy"),
        ({"kv_cache_free_gpu_mem_fraction": "much"}, "kv_cache_free_gpu_mem_fraction"),
        ({"invented": "1"}, "no parameter invented"),
    ],
    ids=str,
)
def test_a_model_that_the_backend_would_not_understand_is_not_loaded(
    folder: Path, change: dict[str, str], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        limits.read(model(folder, **change))


def test_a_tensor_that_the_backend_does_not_know_is_refused(folder: Path) -> None:
    changed = model(folder)
    changed["input"].append({"name": "invented", "data_type": "TYPE_INT32"})
    with pytest.raises(EngineError, match="no input invented"):
        limits.read(changed)


def test_limits_are_the_engines(folder: Path) -> None:
    read = limits.read(model(folder))
    assert isinstance(read, EngineLimits)
    assert (read.max_draft_len, read.max_input_len, read.max_seq_len) == (5, 96, 101)
    assert read.reuse
    assert not read.exclude_input
