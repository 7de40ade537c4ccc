# SPDX-License-Identifier: Apache-2.0
"""Checks models of NVIDIA's ``tensorrtllm`` backend, also those that specbuild did not write.

A repository made from NVIDIA's templates, of any generation, is compared with what the backend of
TensorRT-LLM 1.0 to 1.2 knows, with its own engines, and with what a draft-target pair needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from specbuild.errors import RepositoryError
from specbuild.repository import contracts
from specbuild.repository.engine_facts import EngineFacts
from specbuild.repository.engine_pair import check_pair, parameter
from specbuild.repository.finding import Finding
from specbuild.repository.modelconfig import ModelConfig, data_type

BACKEND = "tensorrtllm"


def check_engines(models: Mapping[str, ModelConfig]) -> Iterator[Finding]:
    """Findings about every engine model in ``models`` and about the pair that two of them form."""
    engines = {name: message for name, message in models.items() if message.backend == BACKEND}
    facts: dict[str, EngineFacts] = {}
    for name, message in engines.items():
        yield from _tensors(message)
        yield from _parameters(message)
        try:
            engine = _facts(message)
        except RepositoryError as error:
            yield Finding("engine-unreadable", name, error.message, error.remedy)
            continue
        if engine is not None:
            facts[name] = engine
            yield from _limits(message, engine)
    yield from check_pair(models, facts)


def _tensors(message: ModelConfig) -> Iterator[Finding]:
    for tensors, known in ((message.input, contracts.inputs()), (message.output, contracts.outputs())):
        for tensor in tensors:
            contract = known.get(tensor.name)
            declared = data_type(tensor.data_type)
            if contract is None:
                yield _unknown_tensor(message.name, tensor.name)
            elif not contract.accepts(declared) or tuple(tensor.dims) != contract.dims:
                yield Finding(
                    "engine-tensor-differs",
                    message.name,
                    f"{tensor.name} is {declared} {list(tensor.dims)}; the backend has {contract.data_type} "
                    f"{list(contract.dims)}",
                    "Give the tensor the type and shape of NVIDIA's template for the installed version.",
                )
    missing = {name for name in _REQUIRED if name not in {tensor.name for tensor in message.input}}
    for name in sorted(missing):
        yield Finding("engine-tensor-missing", message.name, f"there is no input {name}", "Declare it.")


_REQUIRED = ("input_ids", "input_lengths", "request_output_len")


def _unknown_tensor(model: str, name: str) -> Finding:
    renamed = contracts.renamed_inputs().get(name)
    remedy = (
        f"Rename it to {renamed}, as TensorRT-LLM 0.20 and later call it, here and in the ensemble."
        if renamed
        else "Remove it: the backend ignores what it does not know."
    )
    return Finding("engine-tensor-unknown", model, f"the backend has no tensor {name}", remedy)


def _parameters(message: ModelConfig) -> Iterator[Finding]:
    known = contracts.parameters()
    for key in sorted(message.parameters):
        if key not in known:
            yield Finding(
                "engine-parameter-unknown",
                message.name,
                f"the backend does not read the parameter {key}",
                "Remove it, or correct its name.",
            )
        elif complaint := known[key].complaint(parameter(message, key)):
            yield Finding(
                "engine-parameter-invalid",
                message.name,
                f"{key}: {complaint}",
                "Correct the value; the backend falls back to its default, or does not load.",
            )
    for key, contract in known.items():
        if contract.required and key not in message.parameters:
            yield Finding(
                "engine-parameter-missing",
                message.name,
                f"there is no parameter {key}, which the backend reads without a default",
                "Declare it; an empty string_value will do, but for gpt_model_type.",
            )


def _facts(message: ModelConfig) -> EngineFacts | None:
    """The engine's own facts; None where its folder is missing, which is a finding elsewhere."""
    folder = parameter(message, "gpt_model_path")
    return EngineFacts.read(Path(folder)) if folder and Path(folder).is_dir() else None


def _limits(message: ModelConfig, engine: EngineFacts) -> Iterator[Finding]:
    beams = parameter(message, "max_beam_width")
    promised = {
        "max_batch_size": (message.max_batch_size, engine.max_batch_size),
        "max_beam_width": (int(beams) if beams.isdecimal() else 1, engine.max_beam_width),
    }
    for name, (here, built) in promised.items():
        if here > built:
            yield Finding(
                "engine-limit-exceeded",
                message.name,
                f"{name} is {here}, but the engine was built for {built}",
                f"Set {name} to {built} or less, or build the engine again.",
            )
    gpus = parameter(message, "gpu_device_ids")
    for listed in gpus.split(";") if gpus else ():
        if len(listed.split(",")) != engine.world_size:
            yield Finding(
                "engine-gpus-differ",
                message.name,
                f"gpu_device_ids names {listed}, but the engine was built for {engine.world_size} GPUs",
                "Name as many GPUs as tp_size * pp_size of the engine.",
            )
