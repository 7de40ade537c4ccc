# SPDX-License-Identifier: Apache-2.0
"""The attention function that transformers' models call, over the slots of a KvCache.

A pass packs the new tokens of several requests into one sequence, without padding, so that the linear
layers see real tokens only. Attention splits it again: each ``Span`` attends to its own slot and to
nothing else, alone or as rows of one product with requests like it (``together``).

Keys are read in multiples of 32, what lies behind a query is masked, and long sums are made of fixed blocks
(``mixing``). The same keys are then summed in the same groups in whichever pass a token is computed, so
that in bfloat16 on a CPU the verification of a token has, bit for bit, the result of its plain decoding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from specbuild.errors import EngineError
from specbuild.torch_runtime.kv_cache import KvCache, aligned
from specbuild.torch_runtime.mixing import first_block, mix
from specbuild.torch_runtime.span import Span
from specbuild.torch_runtime.together import Together, similar

NAME = "specbuild"
"""Under this name the function is known to transformers' AttentionInterface."""


class Attends(Protocol):
    """What a model's attention layers find in the attribute ``slots``."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Store the new keys and values, and attend. Query [1, heads, tokens, d] → [1, tokens, heads, d]."""


def attach(model: nn.Module, slots: Attends) -> None:
    """Let the attention layers of ``model`` find ``slots``.

    On the modules, because not every model of transformers hands keyword arguments through to them.
    """
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.slots = slots  # type: ignore[assignment]


class Slots:
    """The cache of a model, and the spans of the pass that is being computed. One per model."""

    def __init__(self, cache: KvCache) -> None:
        self.cache = cache
        self._spans: Sequence[Span] = ()
        self._together: Together | None = None

    def expect(self, spans: Sequence[Span], device: torch.device) -> None:
        """Say what the next pass consists of; its tokens are on ``device``."""
        self._spans = spans
        self._together = Together(spans, device) if similar(spans) else None

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """As ``Attends`` says: requests of similar length in one product, others one by one."""
        keys, values = self.cache.layer(layer, key, value)
        if self._together is not None:
            return self._together.attend(
                query, key, value, keys, values, scaling=scaling, window=window, softcap=softcap
            )
        outputs = []
        offset = 0
        for span in self._spans:
            new = slice(offset, offset + span.length)
            offset += span.length
            slot_keys, slot_values = keys[span.slot], values[span.slot]
            slot_keys[:, span.start : span.end] = key[0, :, new]
            slot_values[:, span.start : span.end] = value[0, :, new]
            rows = query[0, :, new]
            outputs.append(
                _attend_span(rows, slot_keys, slot_values, span, scaling, window=window, softcap=softcap)
            )
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: the module's slots do the work. Returns [1, tokens, heads, d].

    The mask that some versions of transformers make takes the packed tokens for one sequence: not used.
    """
    if s_aux is not None:
        raise EngineError(
            f"{type(module).__name__} needs attention sinks",
            remedy="Use a causal language model with plain rotary attention.",
        )
    slots: Attends = module.slots  # type: ignore[assignment]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return slots.attend(
        layer, query, key, value, scaling=scaling, window=sliding_window, softcap=softcap
    ), None


def _attend_span(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    span: Span,
    scaling: float,
    *,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Query [heads, n, d] over a slot's keys and values [kv_heads, length, d] → [n, heads, d].

    Heads that share keys are rows of one product; the softmax is in float32.
    """
    heads, n, size = query.shape
    kv_heads = keys.shape[0]
    last = aligned(span.end)
    first = 0 if window is None else first_block(span.start + 1 - window)
    groups = query.reshape(kv_heads, heads // kv_heads * n, size)
    scores = torch.bmm(groups, keys[:, first:last].transpose(1, 2)).float().mul_(scaling)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    scores = scores.view(heads, n, last - first)
    if later := last - span.start - 1:
        _hide_later(scores, later)
    if window is not None and span.end - first > window:
        _hide_earlier(scores, span.end - first - window)
    weights = torch.softmax(scores, dim=-1).to(values.dtype).view(kv_heads, -1, last - first)
    return mix(weights, values[:, first:last]).view(heads, n, values.shape[-1]).transpose(0, 1)


def _hide_later(scores: Tensor, later: int) -> None:
    """Mask the last ``later`` keys of [heads, n, keys] for queries they follow; the first follows query 0."""
    n = scores.shape[1]
    scores[:, :, -later:] += _triangle(_power_of_two(max(n, later)), scores.device)[:n, :later]


def _hide_earlier(scores: Tensor, earlier: int) -> None:
    """Mask the first ``earlier`` keys for queries whose window has passed them; the last has passed all."""
    n = scores.shape[1]
    rows = min(n, earlier)
    # Counted from the last query and the last of these keys backwards this is the same triangle.
    triangle = _triangle(_power_of_two(max(n, earlier)), scores.device)[:rows, :earlier]
    scores[:, n - rows :, :earlier] += triangle.flip(0, 1)


@functools.lru_cache(maxsize=64)
def _triangle(size: int, device: torch.device) -> Tensor:
    """-inf at and right of the diagonal, 0 left of it [size, size]."""
    return torch.full((size, size), -torch.inf, device=device).triu()


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
