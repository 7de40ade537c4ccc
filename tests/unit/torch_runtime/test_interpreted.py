# SPDX-License-Identifier: Apache-2.0
"""The GPU's kernels, and the pair that plays rounds with them, in the interpreter of Triton's language.

It computes on the CPU what a GPU would. Only CUDA's own things are replaced: a graph is played by doing again
what it holds. Triton's language must know before it is imported: TRITON_INTERPRET=1 in the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from specbuild.torch_runtime import Engine, Request, Sampling, Settings
from specbuild.torch_runtime.decoder import Decoder
from specbuild.torch_runtime.span import Span
from support import running, tiny_models

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1: see the Makefile", allow_module_level=True)
from specbuild.torch_runtime.cuda import attention_pass, fused_stack, graphs
from specbuild.torch_runtime.cuda.decoder import CudaDecoder, groups_of
from specbuild.torch_runtime.cuda.pair import CudaPair
from specbuild.torch_runtime.cuda.state import DeviceState

# The interpreter's own.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array:DeprecationWarning", "ignore:invalid value:RuntimeWarning"
)

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"slots": 3, "max_seq_len": 64, "where": CPU}
ROUNDED = ("llama", "mistral", "qwen2")


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attention_pass, fused_stack):
        monkeypatch.setattr(module, "shared_memory", lambda where: 200_000)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda where: None)
    monkeypatch.setattr(graphs.RoundGraphs, "_replayable", lambda self, work: work)


@pytest.fixture(params=tiny_models.FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny_models.save(tmp_path / "model", request.param)


@torch.inference_mode()
def logits(model: Path, *, eight_bits: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """[6, vocab] of a GPU's step over three tokens of two requests, and of the CPU's."""
    reference = Decoder.load(model, **SIZES)
    decoder = CudaDecoder.load(model, draft_length=4, eight_bits=eight_bits, **SIZES)
    tokens = torch.randint(0, 60, (2, 15), generator=torch.Generator().manual_seed(0))
    for slot in (0, 1):
        for one in (reference, decoder):
            one.forward(tokens[slot, :12], [Span(slot, 0, 12)])
    state = DeviceState(3, 4, CPU)
    state.slots[:2], state.positions[:2], state.grid[:2, :3] = torch.tensor([0, 1]), 12, tokens[:, 12:]
    groups = groups_of(state, 2, 3, 0)
    got = decoder.stack.step(state.grid, groups, last=False)
    assert got is not None
    last = decoder.stack.step(state.grid, groups, last=True)
    assert last is not None
    assert torch.allclose(last, got[[2, 5]], atol=1e-5)
    decoder.stack.step(state.grid, groups, last=False, choices=state.choices)
    assert torch.equal(state.choices[:2, :3].reshape(-1), got.argmax(-1))
    expected = [reference.forward(tokens[slot, 12:], [Span(slot, 12, 3)]) for slot in (0, 1)]
    return got, torch.cat(expected)


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def test_a_step_gives_the_cpus_logits(model: Path) -> None:
    got, expected = logits(model, eight_bits=False)
    assert error(got, expected) < 1e-5


@pytest.mark.parametrize("model", ROUNDED, indirect=True)
def test_weights_in_8_bits_move_the_logits_a_little(model: Path) -> None:
    got, expected = logits(model, eight_bits=True)
    assert 1e-4 < error(got, expected) < 0.1


@pytest.mark.parametrize("adaptive", [False, True])
def test_rounds_give_the_cpus_tokens(tmp_path: Path, adaptive: bool) -> None:
    target = tiny_models.save(tmp_path / "target", "llama", num_hidden_layers=1)
    draft = tiny_models.save_related(tmp_path / "draft", like=target, noise=0.03)
    settings = Settings(
        draft_length=2, adaptive=adaptive, max_batch_size=2, max_input_len=100, max_seq_len=128
    )
    requests = [
        Request(prompt=[1, 5, 9], max_tokens=8, draft_length=2),
        Request(prompt=[3, 9, 4, 7], max_tokens=5, draft_length=0),
        Request(prompt=[3, 9], max_tokens=6, sampling=Sampling(temperature=0.9, top_k=20, seed=3)),
    ]
    with (
        running.engine(target, draft, draft_length=2) as reference,
        _played(target, draft, settings) as engine,
    ):
        expected = [running.finish(reference, request).tokens for request in requests]
        together = running.finish_all(engine, requests)
    assert [one.tokens for one in together] == expected


def test_a_prompt_whose_logits_are_no_numbers_fails_alone(tmp_path: Path) -> None:
    """Both prompts are read in one pass; token 7 embeds as infinity."""
    target = tiny_models.save(tmp_path / "target", "llama", num_hidden_layers=1)
    file = target / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][7] = float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    settings = Settings(draft_length=0, adaptive=False, max_batch_size=2, max_input_len=100, max_seq_len=128)
    broken, fine = running.Collected(), running.Collected()
    with _played(target, None, settings) as engine:
        alone = running.finish(engine, Request(prompt=[1, 5, 9], max_tokens=4)).tokens
        for one, prompt in ((broken, [1, 7, 9]), (fine, [1, 5, 9])):
            engine.submit(Request(prompt=prompt, max_tokens=4), on_chunk=one.on_chunk, on_error=one.on_error)
        assert fine.wait().tokens == alone
        assert "not finite" in str(broken.wait().error)
        assert engine.status().active == 0


def _played(target: Path, draft: Path | None, settings: Settings) -> Engine:
    def load() -> CudaPair:
        pair = CudaPair.load(target, draft, settings, CPU)
        pair.measure(settings.max_batch_size, settings.draft_length)
        return pair

    return Engine(load, settings, CPU, lambda: None)
