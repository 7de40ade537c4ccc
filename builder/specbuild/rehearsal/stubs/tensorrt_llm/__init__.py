# SPDX-License-Identifier: Apache-2.0
"""``tensorrt_llm`` for rehearsals: as much of the LLM API as the model ``llmapi`` uses, run in PyTorch.

Names and defaults follow tensorrt_llm/llmapi/llm.py and tensorrt_llm/sampling_params.py of TensorRT-LLM 1.2.
Arguments that the LLM API does not know are refused, as its own models refuse them.
"""

from __future__ import annotations

from specbuild.rehearsal.llm_api import LLM
from specbuild.rehearsal.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]
