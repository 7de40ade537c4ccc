# SPDX-License-Identifier: Apache-2.0
"""Do an ensemble's steps fit together? Every tensor needs a source, and both ends must agree.

Triton checks part of this when it loads a repository; here all reasons are given at once, without a server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from specbuild.repository.finding import Finding
from specbuild.repository.modelconfig import ModelConfig, data_type

_MAP_REMEDY = "Correct ensemble_scheduling in the ensemble's config.pbtxt."


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a tensor of the ensemble."""

    where: str
    type: str
    dims: tuple[int, ...]

    @classmethod
    def of(cls, where: str, tensor: Any) -> _End:
        return cls(f"{where} {tensor.name}", data_type(tensor.data_type), tuple(tensor.dims))

    def fits(self, other: _End) -> bool:
        return self.type == other.type and _shapes_fit(self.dims, other.dims)

    def __str__(self) -> str:
        return f"{self.where} ({self.type} {list(self.dims)})"


_Sources: TypeAlias = dict[str, _End | None]
"""Tensor of the ensemble -> where it comes from; None when that end could not be read."""


def check_ensemble(
    ensemble: ModelConfig, models: Mapping[str, ModelConfig], unread: Collection[str] = ()
) -> Iterator[Finding]:
    """Findings about the steps of ``ensemble``, whose models are in ``models``.

    ``unread`` are models whose configuration could not be read, for a reason that is known already.
    """
    sources: _Sources = {tensor.name: _End.of("input", tensor) for tensor in ensemble.input}
    known = [step for step in ensemble.ensemble_scheduling.step if step.model_name in models]
    for step in ensemble.ensemble_scheduling.step:
        if step.model_name in models:
            continue
        sources |= dict.fromkeys(step.output_map.values())
        if step.model_name not in unread:
            yield Finding(
                "step-unknown",
                ensemble.name,
                f"there is no model {step.model_name}",
                "Add the model to the repository, or correct the step's model_name.",
            )
    for step in known:
        yield from _outputs(ensemble.name, step, models[step.model_name], sources)
    for step in known:
        yield from _inputs(ensemble.name, step, models[step.model_name], sources)
    used = {tensor for step in ensemble.ensemble_scheduling.step for tensor in step.input_map.values()}
    for tensor in ensemble.input:
        if tensor.name not in used:
            yield Finding(
                "tensor-unused", ensemble.name, f"no step takes the input {tensor.name}", _MAP_REMEDY
            )
    for tensor in ensemble.output:
        yield from _meet(ensemble.name, tensor.name, _End.of("output", tensor), sources)


def _outputs(ensemble: str, step: Any, model: ModelConfig, sources: _Sources) -> Iterator[Finding]:
    """Register what the step produces."""
    tensors = {tensor.name: tensor for tensor in model.output}
    for name, tensor in step.output_map.items():
        if name in tensors:
            sources[tensor] = _End.of(f"{model.name}'s output", tensors[name])
        else:
            sources[tensor] = None
            yield _unknown(ensemble, model.name, "output", name)


def _inputs(ensemble: str, step: Any, model: ModelConfig, sources: _Sources) -> Iterator[Finding]:
    tensors = {tensor.name: tensor for tensor in model.input}
    for name, tensor in step.input_map.items():
        if name in tensors:
            yield from _meet(ensemble, tensor, _End.of(f"{model.name}'s input", tensors[name]), sources)
        else:
            yield _unknown(ensemble, model.name, "input", name)
    for name in [tensor.name for tensor in model.input if not tensor.optional]:
        if name not in step.input_map:
            yield Finding("tensor-unmapped", ensemble, f"{model.name} needs its input {name}", _MAP_REMEDY)


def _meet(ensemble: str, tensor: str, end: _End, sources: _Sources) -> Iterator[Finding]:
    if tensor not in sources:
        yield Finding(
            "tensor-unsourced", ensemble, f"nothing produces {tensor}, which {end} takes", _MAP_REMEDY
        )
    elif (source := sources[tensor]) is not None and not source.fits(end):
        yield Finding("tensor-mismatch", ensemble, f"{source} does not fit {end}", _MAP_REMEDY)


def _unknown(ensemble: str, model: str, kind: str, name: str) -> Finding:
    return Finding("tensor-unknown", ensemble, f"{model} has no {kind} {name}", _MAP_REMEDY)


def _shapes_fit(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(-1 in (a, b) or a == b for a, b in zip(one, other, strict=True))
