# SPDX-License-Identifier: Apache-2.0
"""What an engine says about itself: config.json, as far as a migration needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from specbuild import artifacts
from specbuild.engines import contracts, readback
from specbuild.errors import ConfigError

_CONTRACT = contracts.document("engine_config")
_DTYPES = frozenset({"float16", "bfloat16", "float32"})
_QUANTIZATIONS = {algorithm: name for name, algorithm in _CONTRACT["quant_algo"].items()}
_EXTERNAL: int = _CONTRACT["speculative_decoding_mode"]["DRAFT_TOKENS_EXTERNAL"]
# Key of build_config -> the value that says nothing.
_NOT_CARRIED = {
    "gather_context_logits": False,
    "gather_generation_logits": False,
    "max_prompt_embedding_table_size": 0,
}


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Mapping(_Document):
    tp_size: int = 1
    pp_size: int = 1


class _Quantization(_Document):
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None


class _Pretrained(_Document):
    dtype: str = "auto"
    mapping: _Mapping = _Mapping()
    quantization: _Quantization = _Quantization()


class _Build(_Document):
    max_batch_size: int = Field(ge=1)
    max_input_len: int = Field(ge=1)
    max_seq_len: int = Field(ge=2)
    max_num_tokens: int | None = None
    max_beam_width: int = 1
    max_draft_len: int = 0
    speculative_decoding_mode: int = 1
    gather_context_logits: bool = False
    gather_generation_logits: bool = False
    max_prompt_embedding_table_size: int = 0


class Engine(_Document):
    """The config.json of an engine folder."""

    version: str
    pretrained_config: _Pretrained = _Pretrained()
    build_config: _Build

    @property
    def verifies_drafts(self) -> bool:
        return self.build_config.speculative_decoding_mode == _EXTERNAL

    @property
    def max_seq_len(self) -> int:
        """Prompt and output; the builder has added the draft length for a speculative mode."""
        build = self.build_config
        return build.max_seq_len - (build.max_draft_len if self.verifies_drafts else 0)

    @property
    def quantization(self) -> str | None:
        """As the configuration names it; None also for an algorithm without a name there."""
        return _QUANTIZATIONS.get(self.pretrained_config.quantization.quant_algo or "")

    @property
    def unknown_algorithm(self) -> str | None:
        """The weights' format if the configuration has no name for it."""
        algorithm = self.pretrained_config.quantization.quant_algo
        return algorithm if algorithm and algorithm not in _QUANTIZATIONS else None

    def model(self, checkpoint: str) -> dict[str, Any]:
        """The ``target`` or ``draft`` section of a configuration; what is default is left out."""
        mapping, dtype = self.pretrained_config.mapping, self.pretrained_config.dtype
        section: dict[str, Any] = {"checkpoint": checkpoint}
        if dtype in _DTYPES:
            section["dtype"] = dtype
        if self.quantization:
            section["quantization"] = self.quantization
        sizes = {"tp_size": mapping.tp_size, "pp_size": mapping.pp_size}
        return section | {key: size for key, size in sizes.items() if size > 1}

    def not_carried(self) -> Iterator[tuple[str, Any]]:
        """Build settings in use that have no counterpart."""
        for key, neutral in _NOT_CARRIED.items():
            value = getattr(self.build_config, key)
            if value != neutral:
                yield key, value


def read(folder: Path) -> Engine:
    """The engine in ``folder``. Raises BuildError when config.json cannot be read, ConfigError otherwise."""
    document = readback.read_config(folder)
    try:
        return Engine.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{folder / 'config.json'} is not that of a TensorRT engine: {where}: {first['msg'].lower()}",
            remedy="Name the folder that trtllm-build wrote: config.json beside rank0.engine.",
        ) from None


def checkpoint_of(folder: Path) -> str | None:
    """The checkpoint that specbuild built the engine from; None for other engines."""
    manifest = artifacts.read_manifest(folder)
    found = manifest.facts.get("checkpoint") if manifest else None
    return found if isinstance(found, str) else None
