# SPDX-License-Identifier: Apache-2.0
"""A model of transformers computed by calling its own modules one after the other.

What transformers does around them in every pass (masks, output classes, hooks that record what happens) takes
a quarter of a small draft's step on a CPU. Nothing of it changes the result where a model is what Llama is:
an embedding, layers over rotary positions, a norm and a head. Whether it is, a first pass decides: it must
give the logits of the model's own code, bit for bit. The rotary angles of all positions are computed once.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from specbuild.torch_runtime.attention import Slots, attach
from specbuild.torch_runtime.kv_cache import KvCache
from specbuild.torch_runtime.span import Span

_MODEL = {"model", "lm_head"}
_BODY = {"embed_tokens", "layers", "norm", "rotary_emb"}


class Forward(Protocol):
    """Computes a model whose attention has its slots."""

    def __call__(self, tokens: Tensor, positions: Tensor, rows: Tensor | None) -> Tensor:
        """Logits [rows, vocab_size] after ``tokens`` at ``positions`` [n]; ``rows`` None is all of them."""


@torch.inference_mode()
def forward_of(model: Any, longest: int) -> Forward:
    """The shortest way through ``model`` that gives its own result at positions below ``longest``.

    Attach the model's slots afterwards.
    """
    own = WholeModel(model)
    if not (_children(model) == _MODEL and _children(model.model) == _BODY):
        return own
    expected = _first_pass(model, own)
    try:
        walk = ModuleWalk(model, longest)
        return walk if torch.equal(_first_pass(model, walk), expected) else own
    except Exception:
        # Modules that need more than they get here may raise anything.
        return own


class WholeModel:
    """The model's own code."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, tokens: Tensor, positions: Tensor, rows: Tensor | None) -> Tensor:
        """As ``Forward`` says."""
        logits: Tensor = self._model(
            input_ids=tokens[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=0 if rows is None else rows,
        ).logits[0]
        return logits


class ModuleWalk:
    """The modules of a model like Llama."""

    def __init__(self, model: Any, longest: int) -> None:
        body = model.model
        self._embedding, self._layers, self._norm = body.embed_tokens, list(body.layers), body.norm
        self._head = model.lm_head
        positions = torch.arange(longest, device=body.embed_tokens.weight.device)
        # Of its first argument the module takes the type only.
        cos, sin = body.rotary_emb(body.embed_tokens(positions[:1]), position_ids=positions[None])
        self._cos, self._sin = cos[0], sin[0]

    def __call__(self, tokens: Tensor, positions: Tensor, rows: Tensor | None) -> Tensor:
        """As ``Forward`` says."""
        hidden = self._embedding(tokens[None])
        angles = self._cos[positions][None], self._sin[positions][None]
        for layer in self._layers:
            hidden = layer(hidden, position_embeddings=angles, position_ids=positions[None])
        hidden = self._norm(hidden)
        logits: Tensor = self._head(hidden if rows is None else hidden[:, rows])[0]
        return logits


def _first_pass(model: Any, forward: Forward) -> Tensor:
    """The logits of a few tokens, over a cache that is thrown away."""
    weight = model.get_input_embeddings().weight
    positions = torch.arange(3, device=weight.device)
    slots = Slots(KvCache(1, len(positions)))
    slots.expect([Span(0, 0, len(positions))], weight.device)
    attach(model, slots)
    return forward(positions.flip(0).clamp(max=len(weight) - 1), positions, positions[1:])


def _children(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}
