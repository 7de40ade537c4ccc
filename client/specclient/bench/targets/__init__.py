# SPDX-License-Identifier: Apache-2.0
"""What a benchmark sends to: a Triton server or an OpenAI-compatible one, behind one interface."""

from specclient.bench.targets.openai import OpenAITarget
from specclient.bench.targets.target import Server, Target
from specclient.bench.targets.triton import TritonTarget

__all__ = ["OpenAITarget", "Server", "Target", "TritonTarget"]
