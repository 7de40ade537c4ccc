# SPDX-License-Identifier: Apache-2.0
"""The repository of the torch runtime: draft and target live in one Triton model, ``torch``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from specbuild.config import Config
from specbuild.repository import front
from specbuild.repository.modelconfig import ModelConfig, set_parameters

MODELS = ("ensemble", "preprocessing", "torch", "postprocessing")


def engines(settings: Config) -> tuple[Path, ...]:
    """The folders that the models read when they are loaded."""
    return (settings.engines_dir / "target", settings.engines_dir / "draft")


def files(settings: Config) -> Mapping[str, Path]:
    """Files besides the models' own: what the generating models share."""
    return front.shared("torch", "caller", "meter")


def configure(models: Mapping[str, ModelConfig], settings: Config) -> None:
    """Set in the base messages what depends on the deployment. Paths become absolute."""
    target, draft = (folder.absolute() for folder in engines(settings))
    for name in ("preprocessing", "postprocessing"):
        set_parameters(models[name], {"tokenizer_dir": target})
    set_parameters(models["preprocessing"], {"max_input_len": settings.limits.max_input_len})
    set_parameters(
        models["torch"],
        {
            "target_dir": target,
            "draft_dir": draft,
            "draft_length": settings.speculation.draft_length,
            "adaptive": settings.speculation.adaptive,
            "max_batch_size": settings.limits.max_batch_size,
            "max_input_len": settings.limits.max_input_len,
            "max_seq_len": settings.limits.max_seq_len,
            "max_queue_size": settings.serving.max_queue_size,
            "prefill_chunk": settings.torch.prefill_chunk,
            "device": settings.torch.device,
            "threads": settings.torch.threads,
            "target_quantization": settings.target.quantization,
            "draft_quantization": settings.draft.quantization,
        },
    )
