# SPDX-License-Identifier: Apache-2.0
"""The front model of any runtime: the same ensemble, with the runtime's own model in its middle step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from specbuild import resources
from specbuild.repository.modelconfig import ModelConfig, set_parameters
from specclient.protocol import FRONT_MODEL

_PLACEHOLDER = "torch"
"""The generating model that the base files name; every runtime's has its tensors."""


def generate_with(models: Mapping[str, ModelConfig], generator: str) -> None:
    """Let ``ensemble`` call ``generator``, and postprocessing tell it when a client has gone."""
    for step in models[FRONT_MODEL].ensemble_scheduling.step:
        if step.model_name == _PLACEHOLDER:
            step.model_name = generator
    set_parameters(models["postprocessing"], {"generator": generator})


def shared(generator: str, *modules: str) -> dict[str, Path]:
    """Modules of ``speculative`` that another generating model imports: path in the repository -> file."""
    folder = resources.folder("model_repository") / "speculative" / "1"
    return {f"{generator}/1/{module}.py": folder / f"{module}.py" for module in modules}
