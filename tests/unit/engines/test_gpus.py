# SPDX-License-Identifier: Apache-2.0
"""nvidia-smi's answer as values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specbuild.engines import gpus


def smi(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that is the shell script ``body``, and nothing else in PATH before it."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


TWO = 'echo "NVIDIA H100 80GB HBM3, 81559, 9.0, 590.44.01"; echo "NVIDIA A100, PCIe, 81920, 8.0, 590.44.01"'


def test_each_line_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, TWO, monkeypatch)
    one, other = gpus.detect()
    assert (one.name, one.capability, one.memory_bytes) == ("NVIDIA H100 80GB HBM3", (9, 0), 81559 << 20)
    assert (other.name, other.driver) == ("NVIDIA A100, PCIe", "590.44.01")
    assert gpus.common_capability([one, other]) is None
    assert gpus.common_capability([one]) == (9, 0)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", ["8.0"]),
        ("1, 0", ["8.0", "9.0"]),
        ("GPU-1a", ["9.0", "8.0"]),
        ("", []),
        ("-1", []),
        ("1,7,0", ["8.0"]),  # CUDA stops at the first number that is no GPU
    ],
)
def test_only_visible_gpus_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]
) -> None:
    smi(tmp_path, TWO, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.capability_text for gpu in gpus.detect()] == names


@pytest.mark.parametrize(
    "body", ["exit 9", "echo 'No devices were found'", "echo 'NVIDIA H100, 81559, [N/A], 580.1'"]
)
def test_an_answer_that_is_no_list_means_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    smi(tmp_path, body, monkeypatch)
    assert gpus.detect() == ()


def test_without_nvidia_smi_there_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.detect() == ()


def test_shared_memory_has_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, "echo 'NVIDIA GB10, [N/A], 12.1, 580.95'", monkeypatch)
    (gpu,) = gpus.detect()
    assert (gpu.memory_bytes, gpu.capability) == (0, (12, 1))
