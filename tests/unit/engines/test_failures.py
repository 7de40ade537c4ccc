# SPDX-License-Identifier: Apache-2.0
"""Known failure texts lead to their remedies; the tail of any log is bounded and printable."""

from __future__ import annotations

from pathlib import Path

import pytest

from specbuild.engines import failures
from specbuild.engines.plan import Step


def step(name: str) -> Step:
    folder = Path("/build/engines/target")
    return Step(name, "target", ("tool",), {}, (), (folder / "config.json",), "k" * 64)


def remedy(tmp_path: Path, text: str, *, name: str = "target-build", code: int = 1) -> str:
    log = tmp_path / "step.log"
    log.write_text(text)
    return failures.explain(step(name), code, log).remedy


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[TRT] [E] 2: Error Code 2: OutOfMemory (no further information)", "limits.max_batch_size"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "target.tp_size"),
        ("OSError: [Errno 28] No space left on device", "Free space"),
        ("MemoryError", "memory ran out"),
        ("docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock", "Start docker"),
        ("docker: Error: could not select device driver with capabilities: [[gpu]]", "Container Toolkit"),
        ("docker: Error response from daemon: manifest unknown", "tensorrt_llm.image"),
        ('Conflict. The container name "/x" is already in use by container "y"', "docker kill"),
        ("python3: can't open file '/app/examples/quantization/quantize.py'", "examples_dir"),
        ("ModuleNotFoundError: No module named 'modelopt'", "nvidia-modelopt"),
        ("ConnectionError: Couldn't reach 'cnn_dailymail' on the Hub", "calibration_dataset"),
        ("trtllm-build: error: unrecognized arguments: --new", "tensorrt_llm.version"),
        ("something new", "whole output"),
    ],
)
def test_known_texts_have_remedies(tmp_path: Path, text: str, part: str) -> None:
    assert part in remedy(tmp_path, text + "\n")


def test_calibration_out_of_memory_is_told_apart(tmp_path: Path) -> None:
    assert "no calibration" in remedy(tmp_path, "CUDA out of memory", name="target-quantize")


def test_a_silent_kill_points_at_memory(tmp_path: Path) -> None:
    assert "memory ran out" in remedy(tmp_path, "", code=137)


def test_the_tail_of_a_huge_line_is_short(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    log.write_bytes(b"x" * 5_000_000 + b"\nend\n")
    lines = failures.tail(log)
    assert lines[-1] == "end"
    assert sum(map(len, lines)) < 1000


def test_the_tail_keeps_the_last_lines_only(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    log.write_text("\n".join(map(str, range(1000))))
    assert failures.tail(log) == [str(number) for number in range(1000 - failures.TAIL_LINES, 1000)]


def test_progress_bars_and_colours_are_removed(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    log.write_bytes(b"10%\r50%\r\x1b[32m100%\x1b[0m \xff\n")
    assert failures.tail(log) == ["100% \ufffd"]


def test_a_missing_log_has_no_tail(tmp_path: Path) -> None:
    assert failures.tail(tmp_path / "none") == []
