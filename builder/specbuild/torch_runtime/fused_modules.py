# SPDX-License-Identifier: Apache-2.0
"""Modules of a transformers model that do the same in fewer steps.

Query, key and value projections read the same input, and so do the gate and the up projection of an MLP:
each group becomes one product. Normalisation becomes one operation instead of seven. On a CPU a small
draft's step is mostly the cost of calling operations, on a GPU that of launching kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class SharedLinear(nn.Module):
    """Several linear layers over one input, computed together when the first of them is called."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        first = layers[0]
        self.sizes = [layer.out_features for layer in layers]
        with torch.device("meta"):
            self.linear = nn.Linear(first.in_features, sum(self.sizes), bias=first.bias is not None)
        self.linear.weight = _joined([layer.weight for layer in layers])
        if first.bias is not None:
            self.linear.bias = _joined([layer.bias for layer in layers])
        self._latest = _Latest()

    def part(self, index: int, rows: Tensor) -> Tensor:
        """What layer ``index`` makes of ``rows``. The last layer's call lets go of the results."""
        latest = self._latest
        if latest.rows is not rows:
            latest.rows, latest.parts = rows, self.linear(rows).split_with_sizes(self.sizes, -1)
        part = latest.parts[index]
        if index == len(self.sizes) - 1:
            latest.rows, latest.parts = None, ()
        return part


class _Latest:
    """What a layer computed last. A module's own attributes take a microsecond each to set."""

    rows: Tensor | None = None
    parts: tuple[Tensor, ...] = ()


class PartOfLinear(nn.Module):
    """One of the layers of ``shared``, in the place of the original one."""

    def __init__(self, shared: SharedLinear, index: int) -> None:
        super().__init__()
        self.shared = shared
        self._index = index

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features]."""
        return self.shared.part(self._index, rows)

    __call__ = forward  # a module's own looks for hooks, which costs a small draft's step a fiftieth


class FusedRMSNorm(nn.Module):
    """Root-mean-square normalisation as Llama's: computed in float32, scaled by ``weight``."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight: nn.Parameter = norm.weight  # type: ignore[assignment]
        self.variance_epsilon = float(norm.variance_epsilon)  # type: ignore[arg-type]

    def forward(self, rows: Tensor) -> Tensor:
        """[..., hidden] → [..., hidden]."""
        return nn.functional.rms_norm(rows, self.weight.shape, self.weight, self.variance_epsilon)

    __call__ = forward


def fuse(model: nn.Module) -> None:
    """Replace what can be fused in ``model``; anything else stays as it is."""
    for parent in list(model.modules()):
        for names in _GROUPS:
            _fuse_linear(parent, names)
        for name, child in list(parent.named_children()):
            if _is_rms_norm(child):
                setattr(parent, name, FusedRMSNorm(child))


def _fuse_linear(parent: nn.Module, names: Sequence[str]) -> None:
    layers = [getattr(parent, name, None) for name in names]
    # Exactly nn.Linear: a subclass may compute something else.
    if not all(type(layer) is nn.Linear for layer in layers):
        return
    if len({(layer.in_features, layer.bias is None, layer.weight.dtype) for layer in layers}) > 1:  # type: ignore[union-attr]
        return
    shared = SharedLinear(layers)  # type: ignore[arg-type]
    for index, name in enumerate(names):
        setattr(parent, name, PartOfLinear(shared, index))


def _is_rms_norm(module: nn.Module) -> bool:
    """Whether it is Llama's kind; Gemma's scales by 1 + weight and calls its epsilon otherwise."""
    return (
        type(module).__name__.endswith("RMSNorm")
        and isinstance(getattr(module, "variance_epsilon", None), float)
        and isinstance(getattr(module, "weight", None), nn.Parameter)
    )


def _joined(parameters: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat([parameter.detach() for parameter in parameters]), requires_grad=False)
