# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding in PyTorch: draft and target in one process, many requests at once.

settings = Settings(draft_length=5, adaptive=True, max_batch_size=8, max_input_len=3072, max_seq_len=4096)
with Engine.load(Path("target"), Path("draft"), settings) as engine:
    for chunk in engine.generate(Request(prompt=[1, 15043], max_tokens=64)):
        print(chunk.token_ids)
"""

from __future__ import annotations

import os

from specbuild.errors import MissingDependencyError

# How long an idle OpenMP worker spins before it sleeps; libgomp reads it once, when PyTorch loads it. Its
# default of 300,000 turns (milliseconds) keeps a core from whoever has the work when cores are shared.
# One token of a 200M target in bfloat16 on two cores, alone and beside one or two busy processes:
#   300,000 turns 31 ms, 300 to 1300 ms;   8,000 turns 33 ms, 90 ms;   2,000 turns 40 ms, 60 ms.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "8000")

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        "PyTorch is not installed", remedy="Install it with: pip install 'specbuild[torch]'"
    ) from error

from specbuild.torch_runtime.engine import Engine, Ticket
from specbuild.torch_runtime.request import (
    Chunk,
    Counters,
    QueueFullError,
    Request,
    Sampling,
    Settings,
    Status,
)

__all__ = [
    "Chunk",
    "Counters",
    "Engine",
    "QueueFullError",
    "Request",
    "Sampling",
    "Settings",
    "Status",
    "Ticket",
]
