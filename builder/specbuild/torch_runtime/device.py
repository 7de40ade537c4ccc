# SPDX-License-Identifier: Apache-2.0
"""Where and in which number format a model runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Protocol

import torch

from specbuild.errors import EngineError

# Names of the instructions in /proc/cpuinfo: AVX-512 and AMX on x86, bf16 on Arm.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def resolve(name: str) -> torch.device:
    """The device called ``name``; auto is the first GPU if there is one. Raises EngineError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise EngineError(
            f"device {name} is not available: PyTorch sees {torch.cuda.device_count()} GPUs",
            remedy="Set the device to auto or cpu, or check the driver with nvidia-smi.",
        )
    return torch.device("cuda", index)


def prepare_thread(device: torch.device, threads: int | None) -> None:
    """Make the calling thread work on ``device``, on a CPU with that many threads or all usable cores."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads or usable_cores())


def compute_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The type to compute in: the checkpoint's own, or on a CPU the 16-bit type it is fast in.

    A CPU without bfloat16 instructions emulates 16-bit types several times slower than float32.
    """
    if device.type != "cpu" or stored == torch.float32:
        return stored
    return torch.bfloat16 if has_bfloat16() else torch.float32


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor computes in bfloat16; False where that cannot be told."""
    try:
        return bool(_BFLOAT16_FLAGS & set(cpuinfo.read_text(encoding="utf-8").split()))
    except OSError:
        return False


def usable_cores() -> int:
    """Cores this process may run on, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def probe(where: torch.device) -> None:
    """Give unused memory back, and return if ``where`` still computes. Raises RuntimeError if it does not."""
    if where.type == "cuda":
        torch.cuda.empty_cache()
        torch.zeros(1, device=where).item()


class Stopwatch(Protocol):
    """Times the parts of a round. ``laps`` may only be called once the device has finished."""

    def lap(self) -> None:
        """Mark the beginning of a part, or the end of the last one."""

    def laps(self) -> list[float]:
        """Seconds between the marks."""


class HostStopwatch:
    """For a CPU, where a call returns when the work is done."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def lap(self) -> None:
        self._marks.append(time.perf_counter())

    def laps(self) -> list[float]:
        return [end - start for start, end in zip(self._marks, self._marks[1:], strict=False)]


class CudaStopwatch:
    """For a GPU: events in the stream, so that measuring does not wait for it."""

    def __init__(self) -> None:
        self._marks: list[torch.cuda.Event] = []

    def lap(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def laps(self) -> list[float]:
        self._marks[-1].synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def stopwatch(device: torch.device) -> Stopwatch:
    """A stopwatch for work on ``device``."""
    return CudaStopwatch() if device.type == "cuda" else HostStopwatch()
