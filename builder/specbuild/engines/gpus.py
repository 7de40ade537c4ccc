# SPDX-License-Identifier: Apache-2.0
"""The NVIDIA GPUs of this machine, as nvidia-smi lists them. No CUDA library is loaded."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from specbuild.engines.quantization import Capability

_LOG = logging.getLogger(__name__)
_QUERY = "name,memory.total,compute_cap,driver_version"
_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    memory_bytes: int
    """0 where GPU and processor share one memory, for which nvidia-smi has no number."""
    capability: Capability
    driver: str

    @property
    def capability_text(self) -> str:
        """As NVIDIA writes it: 9.0."""
        return ".".join(map(str, self.capability))


def detect() -> tuple[Gpu, ...]:
    """The GPUs that CUDA may use, in nvidia-smi's order; empty without GPUs, driver or nvidia-smi."""
    program = shutil.which("nvidia-smi")
    return _visible(_query(program)) if program else ()


@functools.cache  # a driver without persistence mode takes seconds to answer
def _query(program: str) -> tuple[Gpu, ...]:
    argv = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        return tuple(_parse(line) for line in done.stdout.splitlines() if line.strip())
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        _LOG.warning("nvidia-smi gives no list of GPUs: %s", error)
        return ()


def _visible(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, as CUDA reads it: the first bad number ends the list.

    Names (GPU-..., MIG-...) are not resolved: then all GPUs are given.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or chosen.startswith(("GPU-", "MIG-")):
        return tuple(gpus)
    numbers = (word.strip() for word in chosen.split(","))
    good = itertools.takewhile(lambda word: word.isdecimal() and int(word) < len(gpus), numbers)
    return tuple(gpus[int(word)] for word in good)


def _parse(line: str) -> Gpu:
    name, memory, capability, driver = (field.strip() for field in line.rsplit(",", 3))
    major, _, minor = capability.partition(".")
    mebibytes = int(memory) if memory.isdecimal() else 0
    return Gpu(name, mebibytes << 20, (int(major), int(minor)), driver)


def common_capability(gpus: Sequence[Gpu]) -> Capability | None:
    """The compute capability that all GPUs have; None without GPUs or when they differ."""
    found = {gpu.capability for gpu in gpus}
    return found.pop() if len(found) == 1 else None
