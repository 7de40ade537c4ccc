# SPDX-License-Identifier: Apache-2.0
"""Weight formats of an engine: how they are made, which GPU runs them, what the engine calls them.

Sources in NVIDIA/TensorRT-LLM: tensorrt_llm/builder.py at 008b2b8d (what is refused on which GPU, which
formats carry an FP8 KV cache), tensorrt_llm/quantization/quantize_by_modelopt.py at 042c510d. The padding
for AWQ: modelopt/torch/export/model_config_export.py of NVIDIA/Model-Optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Capability = tuple[int, int]
"""CUDA compute capability: (9, 0) is Hopper."""

MIN_CAPABILITY: Capability = (8, 0)
"""Draft-target speculation needs Ampere or newer."""
FP8_CAPABILITY: Capability = (8, 9)
# Data-centre Blackwell: trtllm-build refuses integer weights and per-channel scales there.
_NO_INTEGERS_FROM: Capability = (10, 0)
_NO_INTEGERS_BELOW: Capability = (12, 0)
AWQ_GROUP = 128
"""Input channels that share a scale; quantize.py's --awq_block_size."""
_AWQ_ROWS = 64
CALIBRATION_NAMES = frozenset({"cnn_dailymail", "pileval"})
"""Data sets that quantize.py downloads; anything else is a folder."""


@dataclass(frozen=True, slots=True)
class Format:
    """One value of ``quantization`` in the configuration."""

    calibrated: bool
    """quantize.py makes it on a GPU; otherwise only the converters that know it do, without one."""
    bits: float
    """Per weight, scales included; embedding and output layer stay at 16."""
    algorithm: str
    """quant_algo in the engine's config.json."""
    min_capability: Capability = MIN_CAPABILITY
    integers: bool = False
    """Refused on data-centre Blackwell."""
    fp8_kv: bool = False
    """An FP8 KV cache keeps paged context FMHA, and with it KV reuse."""
    groups: bool = False
    """Weights share scales in groups of AWQ_GROUP input channels."""

    def runs_on(self, capability: Capability) -> bool:
        """Whether a GPU of this compute capability builds and runs the format."""
        refused = self.integers and _NO_INTEGERS_FROM <= capability < _NO_INTEGERS_BELOW
        return capability >= self.min_capability and not refused


FORMATS: Mapping[str, Format] = {
    "fp8": Format(calibrated=True, bits=8, algorithm="FP8", min_capability=FP8_CAPABILITY, fp8_kv=True),
    "fp8_pc_pt": Format(
        calibrated=False,
        bits=8,
        algorithm="FP8_PER_CHANNEL_PER_TOKEN",
        min_capability=FP8_CAPABILITY,
        integers=True,
    ),
    "nvfp4": Format(calibrated=True, bits=4.5, algorithm="NVFP4", min_capability=(10, 0), fp8_kv=True),
    "int4_awq": Format(calibrated=True, bits=4.25, algorithm="W4A16_AWQ", integers=True, groups=True),
    "w4a8_awq": Format(
        calibrated=True,
        bits=4.25,
        algorithm="W4A8_AWQ",
        min_capability=FP8_CAPABILITY,
        integers=True,
        fp8_kv=True,
        groups=True,
    ),
    "int8_sq": Format(calibrated=True, bits=8, algorithm="W8A8_SQ_PER_CHANNEL", integers=True),
    "int8_wo": Format(calibrated=False, bits=8, algorithm="W8A16", integers=True),
    "int4_wo": Format(calibrated=False, bits=4.25, algorithm="W4A16", integers=True),
}


def engine_rows(vocab_size: int, quantization: str | None) -> int:
    """vocab_size of the engine; for AWQ the embedding and the output layer are padded to a multiple of 64."""
    if quantization is None or not FORMATS[quantization].groups:
        return vocab_size
    return -(-vocab_size // _AWQ_ROWS) * _AWQ_ROWS
