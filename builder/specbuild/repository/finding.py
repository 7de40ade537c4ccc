# SPDX-License-Identifier: Apache-2.0
"""What ``specbuild repository --verify`` can find. Codes are stable; scripts may rely on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CODES: Mapping[str, str] = {
    "repository-missing": "There is no such folder, or it holds no model.",
    "stray-folder": "A folder in the root is not a model; Triton exits when it meets one.",
    "name-invalid": "A model's name is not one that is safe in a path.",
    "link-outside": "A link leads out of the repository.",
    "config-missing": "A model folder has no config.pbtxt.",
    "config-empty": "config.pbtxt is empty; Triton loads such a model and calls it ready.",
    "config-unparsable": "config.pbtxt is not a ModelConfig.",
    "config-placeholder": "A ${placeholder} of a template was never filled in.",
    "backend-missing": "config.pbtxt does not say what runs the model.",
    "name-differs": "config.pbtxt names another model than its folder.",
    "version-missing": "A model has no version folder.",
    "file-missing": "A version folder lacks the file that its backend runs.",
    "parameter-unset": "A parameter that must name a folder is empty.",
    "path-missing": "A parameter names a folder that does not exist.",
    "step-unknown": "An ensemble's step names a model that the repository lacks.",
    "tensor-unknown": "An ensemble maps a tensor that the step's model does not have.",
    "tensor-unmapped": "An ensemble leaves out an input that the step's model needs.",
    "tensor-unsourced": "An ensemble reads a tensor that nothing produces.",
    "tensor-unused": "An ensemble's input reaches no step; Triton does not load such an ensemble.",
    "tensor-mismatch": "Two ends of an ensemble's tensor differ in type or shape.",
    "file-damaged": "A file differs from the manifest written with it.",
}


ENGINE_CODES: Mapping[str, str] = {
    "engine-unreadable": "The engine's config.json is missing or not that of an engine.",
    "engine-tensor-unknown": "A tensor that the backend does not know, or knew by another name.",
    "engine-tensor-differs": "A tensor's type or shape is not the backend's.",
    "engine-tensor-missing": "An input that every request needs is not declared.",
    "engine-parameter-unknown": "A parameter that the backend does not read.",
    "engine-parameter-invalid": "A parameter's value is not of its type.",
    "engine-parameter-missing": "A parameter that the backend reads without a default is absent.",
    "engine-limit-exceeded": "A model promises more than its engine was built for.",
    "engine-limits-differ": "The draft engine takes less than the target engine.",
    "engine-gpus-differ": "gpu_device_ids does not name one GPU for each rank of the engine.",
    "engine-kv-reuse-off": "An engine of a pair does not reuse its KV cache.",
    "engine-no-paged-context": "An engine of a pair was built without what KV reuse needs.",
    "engine-input-excluded": "An engine of a pair leaves out the input that NVIDIA's BLS counts on.",
    "engine-verifies-nothing": "The target engine was not built for draft tokens.",
    "engine-draft-verifies": "The draft engine was built as a target.",
    "engine-input-short": "An engine's input limit is below what a later round sends.",
    "engine-memory-overcommitted": "Two engines on one GPU take more than its free memory.",
}
"""Findings about models of NVIDIA's tensorrtllm backend, whoever wrote them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why Triton would not serve the repository as intended, with what to do about it."""

    code: str
    subject: str
    """The model, or the repository as a whole."""
    reason: str
    remedy: str
