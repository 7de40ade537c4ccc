# SPDX-License-Identifier: Apache-2.0
"""The client against NVIDIA's stock `ensemble` and `tensorrt_llm_bls`, both generations, on a real Triton.

The configurations are made from their published tensors; behind them a model repeats what it was sent.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import specclient as sc
from specbuild import server
from specbuild.repository import modelconfig
from specbuild.server import RunningServer
from support import deployment

DATA = Path(__file__).parents[1] / "contract" / "data"
MODEL = Path(__file__).parents[1] / "support" / "stock_model" / "model.py"

# name -> (contract, generation, decoupled, accumulate_tokens)
MODELS = {
    "ensemble": ("ensemble", "new", True, False),
    "ensemble_019": ("ensemble", "old", True, False),
    "ensemble_plain": ("ensemble", "old", False, False),
    "tensorrt_llm_bls": ("bls_model", "new", True, False),
    "bls_019": ("bls_model", "old", True, True),
    "bls_plain": ("bls_model", "new", False, False),
}
OLD_TYPES = {"random_seed": "TYPE_UINT64", "min_length": "TYPE_INT32"}


def config(name: str, contract: str, generation: str, decoupled: bool, accumulates: bool) -> str:
    document = json.loads((DATA / f"triton_{contract}.json").read_text(encoding="utf-8"))
    gone = {key: document["difference_from_v0.19.0"][key] for key in ("inputs_added", "outputs_added")}
    lines = [f'name: "{name}"', 'backend: "python"', "max_batch_size: 8"]
    for kind in ("input", "output"):
        for tensor in document[f"{kind}s"]:
            if generation == "old" and tensor["name"] in gone[f"{kind}s_added"]:
                continue
            data_type = tensor["data_type"] if "$" not in tensor["data_type"] else "TYPE_FP16"
            optional = " optional: true" if tensor.get("optional") else ""
            dims = ", ".join(map(str, tensor["dims"]))
            lines.append(
                f'{kind} {{ name: "{tensor["name"]}" data_type: {data_type} dims: [{dims}]{optional} }}'
            )
    if generation == "old":
        for tensor_name, data_type in OLD_TYPES.items():
            lines.append(f'input {{ name: "{tensor_name}" data_type: {data_type} dims: [1] optional: true }}')
    lines.append(f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}")
    accumulate = str(accumulates).lower()
    lines.append(f'parameters {{ key: "accumulate_tokens" value {{ string_value: "{accumulate}" }} }}')
    return modelconfig.render(modelconfig.parse("\n".join(lines)))


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = deployment.settings_for(tmp_path_factory.mktemp("stock"))
    for name, kind in MODELS.items():
        version = settings.repository_dir / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(config(name, *kind), encoding="utf-8")
        shutil.copyfile(MODEL, version / "model.py")
    with server.running(settings) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def url(triton: RunningServer, request: pytest.FixtureRequest) -> str:
    return triton.grpc if request.param == "grpc" else f"http://{triton.http}"


def ask(url: str, model: str, **fields: Any) -> tuple[dict[str, Any], sc.Completion]:
    """What the model got, and the answer; the same from both clients."""
    with sc.SpecClient(url, model) as client:
        answer = client.generate("a prompt", **fields)

    async def again() -> sc.Completion:
        async with sc.AsyncSpecClient(url, model) as client:
            return await client.generate("a prompt", **fields)

    assert asyncio.run(again()).text == answer.text
    return json.loads(answer.text), answer


@pytest.mark.parametrize("model", MODELS)
def test_every_generation_gets_its_own_names(url: str, model: str) -> None:
    got, answer = ask(
        url, model, max_tokens=7, min_tokens=2, seed=2**64 - 1, stop=("a", "b"), temperature=0.5
    )
    new = MODELS[model][1] == "new"
    assert got["seed" if new else "random_seed"] == 2**64 - 1
    assert got["min_tokens" if new else "min_length"] == 2
    assert (got["text_input"], got["max_tokens"], got["stop_words"]) == ("a prompt", 7, ["a", "b"])
    assert ("return_num_output_tokens" in got) == new
    decoupled = MODELS[model][2]
    assert (got["stream"], len(answer.chunks)) == (decoupled, 2 if decoupled else 1)


@pytest.mark.parametrize("model", ["tensorrt_llm_bls", "bls_019", "bls_plain"])
def test_the_bls_loop_answers_in_one_piece_without_the_prompt(url: str, model: str) -> None:
    got, answer = ask(url, model, num_draft_tokens=4, use_draft_logits=True)
    assert (got["num_draft_tokens"], got["use_draft_logits"], got["stream"]) == (4, True, False)
    assert len(answer.chunks) == 1 and answer.acceptance_length is None


def test_what_stock_models_alone_have_reaches_them(url: str) -> None:
    got, _ = ask(
        url,
        "ensemble",
        embedding_bias={"x": 2.0, "y": -1.5},
        guided_decoding_guide_type="regex",
        guided_decoding_guide="[a-z]+",
        lora_task_id=3,
    )
    assert (got["embedding_bias_words"], got["embedding_bias_weights"]) == (["x", "y"], [2.0, -1.5])
    assert (got["guided_decoding_guide_type"], got["guided_decoding_guide"]) == ("regex", "[a-z]+")
    assert got["lora_task_id"] == 3


def test_a_parameter_that_a_model_lacks_is_refused(url: str) -> None:
    with sc.SpecClient(url, "ensemble") as client:
        with pytest.raises(sc.InvalidRequest, match="num_draft_tokens") as caught:
            client.generate("a prompt", num_draft_tokens=4)
        assert caught.value.endpoint == url
        assert client.generate("a prompt", num_draft_tokens=0).text
        metadata = client.metadata()
    assert metadata.decoupled and "embedding_bias_words" in metadata.inputs
