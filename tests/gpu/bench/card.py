# SPDX-License-Identifier: Apache-2.0
"""What the card itself can do: copy and read bandwidth, and matrix rate."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from rows import Recorder

COPY = "copy bandwidth"
_REPEATS = 10


def run(recorder: Recorder, device: torch.device, *, small: bool) -> None:
    """Record all three, as means over ten runs after three that warm up."""
    elements = (1 << 22) if small else (1 << 31)
    source, copy = torch.full((2, elements), 1.5, dtype=torch.bfloat16, device=device)
    seconds = _timed(lambda: copy.copy_(source), device)
    moved = 2 * source.nbytes
    recorder.row(COPY, moved / seconds / 1e12, "TB/s", note="device to device, bytes read and written")
    seconds = _timed(source.view(torch.float32).sum, device)
    recorder.row("read bandwidth", source.nbytes / seconds / 1e12, "TB/s", note="a sum over the same data")
    size = 256 if small else 8192
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = _timed(lambda: left @ right, device)
    recorder.row(
        "matrix rate", 2 * size**3 / seconds / 1e12, "TFLOP/s", note=f"{size}³ bfloat16, random data"
    )


def _timed(work: Callable[[], object], device: torch.device) -> float:
    for _ in range(3):
        work()
    _finish(device)
    start = time.perf_counter()
    for _ in range(_REPEATS):
        work()
    _finish(device)
    return (time.perf_counter() - start) / _REPEATS


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
