# SPDX-License-Identifier: Apache-2.0
"""Which converter a model family needs, and what TensorRT-LLM's engines support of it.

Sources: the converters' contracts beside this module, and the families' READMEs in
NVIDIA/TensorRT-LLM, examples/models/core (llama at 076efc2b, qwen and gemma at 000a01de).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from specbuild.engines.contracts import Tool
from specbuild.engines.quantization import FORMATS

_WEIGHT_ONLY: Mapping[str, tuple[str, ...]] = {
    "int8_wo": ("--use_weight_only", "--weight_only_precision", "int8"),
    "int4_wo": ("--use_weight_only", "--weight_only_precision", "int4"),
}


@dataclass(frozen=True, slots=True)
class Family:
    """How checkpoints of one family become TensorRT-LLM checkpoints."""

    title: str
    converter: str
    """Relative to TensorRT-LLM's examples folder."""
    contract: Tool
    tensor_parallel_flag: str = "--tp_size"
    pipeline_parallel: bool = True
    arguments: tuple[str, ...] = ()
    """What the converter needs besides folders, sizes and types."""
    converts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _WEIGHT_ONLY)
    """Formats that the converter makes itself, and the flags that ask for them."""
    documented_formats: frozenset[str] = frozenset(FORMATS)
    """Formats that the family's README lists."""
    max_positions: int | None = None
    reports: str | None = None
    """What users reported about draft-target speculation with this family."""

    def makes(self, quantization: str) -> bool:
        """Whether the converter or quantize.py can make the format."""
        return quantization in self.converts or FORMATS[quantization].calibrated


_LLAMA = Family(
    title="Llama",
    converter="models/core/llama/convert_checkpoint.py",
    contract="convert_checkpoint_llama",
    converts={**_WEIGHT_ONLY, "fp8_pc_pt": ("--use_fp8_rowwise",)},
)
_QWEN_2 = Family(
    title="Qwen 2 and 2.5",
    converter="models/core/qwen/convert_checkpoint.py",
    contract="convert_checkpoint_qwen",
    documented_formats=frozenset({"fp8", "int8_wo", "int4_wo", "int4_awq", "w4a8_awq", "int8_sq"}),
)
_QWEN_3 = Family(
    title="Qwen 3",
    converter="models/core/qwen/convert_checkpoint.py",
    contract="convert_checkpoint_qwen",
    pipeline_parallel=False,
    documented_formats=frozenset({"fp8", "nvfp4"}),
)


def _gemma(title: str, *, max_positions: int | None = None, reports: str | None = None) -> Family:
    return Family(
        title=title,
        converter="models/core/gemma/convert_checkpoint.py",
        contract="convert_checkpoint_gemma",
        tensor_parallel_flag="--world-size",
        pipeline_parallel=False,
        arguments=("--ckpt-type", "hf"),
        documented_formats=frozenset({"fp8", "int8_wo", "int4_wo", "int4_awq", "int8_sq"}),
        max_positions=max_positions,
        reports=reports,
    )


FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _QWEN_2,
    "qwen3": _QWEN_3,
    "gemma": _gemma("Gemma"),
    "gemma2": _gemma("Gemma 2", max_positions=4096, reports="NVIDIA/TensorRT-LLM issue 2804"),
    "gemma3_text": _gemma("Gemma 3", reports="NVIDIA/TensorRT-LLM issue 6067"),
}
"""By config.json's model_type. Qwen 2.5 calls itself qwen2."""
