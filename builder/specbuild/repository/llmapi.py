# SPDX-License-Identifier: Apache-2.0
"""The repository of the llmapi runtime: TensorRT-LLM's LLM API in one Triton model, ``llmapi``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from specbuild import artifacts
from specbuild.config import Config
from specbuild.errors import RepositoryError
from specbuild.repository import front
from specbuild.repository.modelconfig import ModelConfig, set_parameters

GENERATOR = "llmapi"
MODELS = ("ensemble", "preprocessing", GENERATOR, "postprocessing")
ARGUMENTS = "model.yaml"


def engines(settings: Config) -> tuple[Path, ...]:
    """The folder with the LLM API's arguments; they name the checkpoints."""
    return (settings.engines_dir / "llmapi",)


def files(settings: Config) -> Mapping[str, Path]:
    """The arguments of the LLM API, beside the model that passes them on, and what models share."""
    arguments = settings.engines_dir / "llmapi" / ARGUMENTS
    return {f"{GENERATOR}/1/{ARGUMENTS}": arguments, **front.shared(GENERATOR, "caller")}


def configure(models: Mapping[str, ModelConfig], settings: Config) -> None:
    """Set in the base messages what depends on the deployment. Raises RepositoryError without engines."""
    target = _target(settings)
    for name in ("preprocessing", "postprocessing"):
        set_parameters(models[name], {"tokenizer_dir": target})
    front.generate_with(models, GENERATOR)
    set_parameters(
        models[GENERATOR],
        {
            "max_batch_size": settings.limits.max_batch_size,
            "max_input_len": settings.limits.max_input_len,
            "max_seq_len": settings.limits.max_seq_len,
            "max_queue_size": settings.serving.max_queue_size,
        },
    )


def _target(settings: Config) -> str:
    """The target's checkpoint, which has the tokenizer."""
    folder = settings.engines_dir / "llmapi"
    manifest = artifacts.read_manifest(folder)
    if manifest is None or "checkpoints" not in manifest.facts:
        raise RepositoryError(
            f"{folder} holds no {ARGUMENTS}", remedy="Write it first: `specbuild engines --config FILE`."
        )
    return str(manifest.facts["checkpoints"]["target"])
