# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face checkpoint as facts: opened completely, or examined for everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from specbuild.checkpoint import digest, model_config, tokenizer, weights
from specbuild.checkpoint.folder import Folder
from specbuild.checkpoint.model_config import ModelConfig
from specbuild.checkpoint.tokenizer import Tokenizer
from specbuild.checkpoint.weights import Weights
from specbuild.errors import CheckpointError

Part = TypeVar("Part")

_TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_OPTIONAL_FILES = (
    model_config.GENERATION_CONFIG,
    model_config.MODELOPT_CONFIG,
    tokenizer.TOKENIZER_CONFIG,
    "special_tokens_map.json",
    tokenizer.CHAT_TEMPLATE,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete, consistent checkpoint; no weight has been loaded and no code imported."""

    folder: Path
    config: ModelConfig
    weights: Weights
    tokenizer: Tokenizer
    chat_template: str | None
    files: tuple[str, ...]
    """The files that make it up, relative to the folder; a copy of these is the checkpoint."""

    @classmethod
    def open(cls, folder: Path, *, trust_remote_code: bool = False) -> Checkpoint:
        """The checkpoint in ``folder``. Raises the first CheckpointError that ``examine`` finds."""
        examination = examine(folder, trust_remote_code=trust_remote_code)
        if examination.errors:
            raise examination.errors[0]
        return examination.complete()

    @property
    def dtype(self) -> str:
        """PyTorch's name of the weights' type: what config.json says, or what most of them have."""
        return _dtype(self.config, self.weights)

    def content_digest(self) -> str:
        """A sha256 over every byte of ``files``; unchanged files are not read a second time."""
        return digest.of_files(self.folder, self.files)


@dataclass(frozen=True, slots=True)
class Examination:
    """What could be read of a checkpoint, and every reason why the rest could not."""

    folder: Path | None
    config: ModelConfig | None = None
    weights: Weights | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    files: tuple[str, ...] = ()
    custom_code: tuple[str, ...] = ()
    """Where the checkpoint asks to import code of its own."""
    errors: tuple[CheckpointError, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Examination:
        """The examination of a checkpoint that is already open."""
        return cls(
            folder=checkpoint.folder,
            config=checkpoint.config,
            weights=checkpoint.weights,
            tokenizer=checkpoint.tokenizer,
            chat_template=checkpoint.chat_template,
            files=checkpoint.files,
        )

    @property
    def dtype(self) -> str | None:
        """As ``Checkpoint.dtype``; None when config or weights could not be read."""
        return _dtype(self.config, self.weights) if self.config and self.weights else None

    def complete(self) -> Checkpoint:
        """The checkpoint of an examination without errors."""
        assert self.folder and self.config and self.weights and self.tokenizer
        return Checkpoint(
            self.folder, self.config, self.weights, self.tokenizer, self.chat_template, self.files
        )


def _dtype(config: ModelConfig, weights: Weights) -> str:
    return config.dtype or _TORCH_NAMES.get(weights.dtype, weights.dtype)


def examine(path: Path, *, trust_remote_code: bool = False) -> Examination:
    """Everything readable in the folder ``path``, with all errors instead of the first."""
    try:
        folder = Folder.open(path)
    except CheckpointError as error:
        return Examination(folder=None, errors=(error,))
    errors: list[CheckpointError] = []

    def attempt(read: Callable[[Folder], Part]) -> Part | None:
        try:
            return read(folder)
        except CheckpointError as error:
            errors.append(error)
            return None

    code = tuple(attempt(custom_code) or ())
    if code and not trust_remote_code:
        errors.append(_untrusted(folder, code))
    config = attempt(model_config.read)
    stored, weight_errors = weights.read(folder)
    errors += weight_errors
    words = attempt(tokenizer.read)
    template = attempt(tokenizer.read_chat_template)
    files = attempt(partial(_files, stored=stored, code=code)) if stored else None
    return Examination(path, config, stored, words, template, files or (), code, _distinct(errors))


def custom_code(folder: Folder) -> list[str]:
    """``FILE: MODULE`` for every place where the checkpoint asks to import code of its own."""
    found = []
    for name in (model_config.CONFIG, tokenizer.TOKENIZER_CONFIG, model_config.GENERATION_CONFIG):
        document: dict[str, Any] = folder.json(name) or {}
        if "auto_map" in document:
            found.append(f"{name}: {str(document['auto_map'])[:120]}")
    return found


def _untrusted(folder: Folder, code: tuple[str, ...]) -> CheckpointError:
    return CheckpointError(
        f"{folder.path} brings its own Python code (auto_map in {'; '.join(code)})",
        remedy="Remove auto_map if transformers has the architecture built in; or read that code and "
        "set trust_remote_code: true for this model.",
        code="custom-code",
    )


def _files(folder: Folder, *, stored: Weights, code: tuple[str, ...]) -> tuple[str, ...]:
    required = [model_config.CONFIG, tokenizer.TOKENIZER, *stored.files]
    index = [weights.INDEX] if stored.files != (weights.SINGLE,) else []
    optional = [*_OPTIONAL_FILES, *(folder.names([".py"]) if code else [])]
    present = [name for name in optional if folder.find(name) is not None]
    return tuple(required + index + present)


def _distinct(errors: list[CheckpointError]) -> tuple[CheckpointError, ...]:
    """``errors`` without repetitions: one damaged file can stop several readers."""
    return tuple({error.message: error for error in errors}.values())
