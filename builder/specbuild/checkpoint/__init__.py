# SPDX-License-Identifier: Apache-2.0
"""Read-only view of a Hugging Face checkpoint, without loading weights or importing its code."""

from specbuild.checkpoint.hub import resolve
from specbuild.checkpoint.model_config import ModelConfig
from specbuild.checkpoint.safetensors import Tensor
from specbuild.checkpoint.tokenizer import Tokenizer
from specbuild.checkpoint.view import Checkpoint, Examination, examine
from specbuild.checkpoint.weights import Weights

__all__ = [
    "Checkpoint",
    "Examination",
    "ModelConfig",
    "Tensor",
    "Tokenizer",
    "Weights",
    "examine",
    "resolve",
]
