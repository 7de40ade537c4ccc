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
    "name-differs": "config.pbtxt names another model than its folder.",
    "version-missing": "A model has no version folder.",
    "file-missing": "A version folder lacks the file that its backend runs.",
    "parameter-unset": "A parameter that must name a folder is empty.",
    "path-missing": "A parameter names a folder that does not exist.",
    "step-unknown": "An ensemble's step names a model that the repository lacks.",
    "tensor-unknown": "An ensemble maps a tensor that the step's model does not have.",
    "tensor-unmapped": "An ensemble leaves out an input that the step's model needs.",
    "tensor-unsourced": "An ensemble reads a tensor that nothing produces.",
    "tensor-mismatch": "Two ends of an ensemble's tensor differ in type or shape.",
    "file-damaged": "A file differs from the manifest written with it.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why Triton would not serve the repository as intended, with what to do about it."""

    code: str
    subject: str
    """The model, or the repository as a whole."""
    reason: str
    remedy: str
