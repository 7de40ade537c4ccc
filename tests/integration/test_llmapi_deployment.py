# SPDX-License-Identifier: Apache-2.0
"""The generated llmapi repository on a real Triton, with a stand-in for TensorRT-LLM's package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from specbuild import artifacts, repository, server
from specbuild.config import Config
from specbuild.server import RunningServer
from specclient.protocol import OUTPUTS
from support import deployment
from support.monitoring import queries, samples
from support.promql import selectors
from support.waiting import until
from support.wire import Stream, WireError, ask

STAND_IN = Path(__file__).parents[1] / "support" / "llmapi"
NEVER = -1


def write(output: Path) -> Config:
    """A deployment whose LLM API is the stand-in; the checkpoint is a tokenizer only."""
    settings = deployment.settings_for(output).model_copy(update={"runtime": "llmapi"})
    checkpoint = output / "checkpoint"
    checkpoint.mkdir(parents=True)
    text = deployment.tokenizer()
    text.save(str(checkpoint / "tokenizer.json"))
    (checkpoint / "generation_config.json").write_text(
        json.dumps({"eos_token_id": text.token_to_id("<eos>")})
    )
    facts = {"checkpoints": {"target": str(checkpoint), "draft": str(checkpoint)}}
    speculation = {"decoding_type": "DraftTarget", "max_draft_len": 3, "speculative_model_dir": "draft"}
    with artifacts.publish(settings.engines_dir / "llmapi", key="llmapi", facts=facts) as staging:
        (staging / "model.yaml").write_text(
            yaml.safe_dump({"model": str(checkpoint), "speculative_config": speculation})
        )
    repository.write(settings)
    return settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write(tmp_path_factory.mktemp("llmapi"))


@pytest.fixture(scope="module")
def triton(settings: Config) -> Iterator[RunningServer]:
    # A model's own folder comes first for its imports; PYTHONPATH does not reach Triton's Python backend.
    shutil.copytree(STAND_IN, settings.repository_dir / "llmapi" / "1", dirs_exist_ok=True)
    with server.running(settings) as running:
        yield running


def test_the_repository_is_in_order_and_holds_the_arguments_as_built(settings: Config) -> None:
    assert repository.verify(settings.repository_dir) == []
    copied = settings.repository_dir / "llmapi" / "1" / "model.yaml"
    assert copied.read_bytes() == (settings.engines_dir / "llmapi" / "model.yaml").read_bytes()


def test_the_front_model_is_the_same_as_everywhere(triton: RunningServer) -> None:
    responses = ask(triton.grpc, "hello", 20, stream=True, end_id=NEVER)
    assert len(responses) > 1
    assert [response.final for response in responses] == [False] * (len(responses) - 1) + [True]
    for response in responses:
        assert set(response.tensors) == set(OUTPUTS)
    assert responses[-1].figure("finish_reason") == b"length"
    assert responses[-1].figure("num_output_tokens") == 20
    assert 0 < responses[-1].figure("num_rounds") < 20


def test_a_stream_joins_to_the_whole_answer(triton: RunningServer) -> None:
    chunks = ask(triton.grpc, "hello", 60, stream=True, end_id=NEVER)
    [whole] = ask(triton.grpc, "hello", 60, end_id=NEVER)
    assert [token for chunk in chunks for token in chunk.ids] == whole.ids
    assert "".join(chunk.text for chunk in chunks) == whole.text


def test_requests_side_by_side_do_not_mix(triton: RunningServer) -> None:
    prompts = [chr(code) for code in range(ord("a"), ord("q"))]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: ask(triton.grpc, prompt, 30, end_id=NEVER)[0].ids, prompts))
    assert together == [ask(triton.grpc, prompt, 30, end_id=NEVER)[0].ids for prompt in prompts]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"num_draft_tokens": 0}, "num_draft_tokens: 0"), ({"beam_width": 2}, "beam_width: beam search")],
)
def test_refusals_name_the_field_and_no_file(
    triton: RunningServer, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(WireError, match=message) as error:
        ask(triton.grpc, "hello", 5, **fields)
    assert ".py" not in str(error.value)


def test_a_client_that_leaves_ends_the_work(triton: RunningServer) -> None:
    """The stand-in takes 10 ms a round: 4,000 tokens would take many seconds."""
    before = counter(triton, "nv_inference_count", "llmapi")
    fields = {"text_input": "a", "max_tokens": 3000, "stream": True, "end_id": NEVER}
    with Stream(triton.grpc, fields) as stream:
        assert next(iter(stream)).ids
    # The request itself, and the one by which postprocessing stopped it.
    until(lambda: counter(triton, "nv_inference_count", "llmapi") >= before + 2, "its end", timeout_s=6)


def test_counters_are_on_tritons_own_endpoint(triton: RunningServer) -> None:
    names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_generation_tokens")
    before = {name: counter(triton, f"specbuild_spec_decode_{name}_total", "llmapi") for name in names}
    [answer] = ask(triton.grpc, "hello", 20, end_id=NEVER)
    after = {name: counter(triton, f"specbuild_spec_decode_{name}_total", "llmapi") for name in names}
    assert {name: after[name] - before[name] for name in names} == {
        "num_drafts": answer.figure("num_rounds"),
        "num_draft_tokens": answer.figure("total_draft_tokens"),
        "num_accepted_tokens": answer.figure("total_accepted_draft_tokens"),
        "num_generation_tokens": 20,
    }


def counter(triton: RunningServer, name: str, model: str) -> float:
    """The value of one of the model's counters."""
    [value] = [
        value
        for metric, labels, value in samples(triton.metrics)
        if (metric, labels["model"]) == (name, model)
    ]
    return value


def test_tritons_own_metrics_on_the_dashboard_are_there(triton: RunningServer) -> None:
    ask(triton.grpc, "hello", 2, end_id=NEVER)
    exported = {name for name, _, _ in samples(triton.metrics)}
    asked = {name for query in queries() for name, _ in selectors(query)}
    assert {name for name in asked if name.startswith("nv_inference_")} <= exported
    assert {name for name in exported if name.startswith("specbuild_")} & asked
