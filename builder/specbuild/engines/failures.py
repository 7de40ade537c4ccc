# SPDX-License-Identifier: Apache-2.0
"""What to do about the failures that users of TensorRT-LLM meet, told by the text they print."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from specbuild.engines.plan import Step
from specbuild.errors import BuildError

TAIL_LINES = 50
_TAIL_BYTES = 64 << 10
_LINE_LENGTH = 400
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\t\n\x20-\x7e\u00a0-\uffff]")

_CALIBRATION_MEMORY = (
    "Calibration holds the 16-bit and the quantised weights on the GPUs together: use more GPUs, or a format "
    "that needs no calibration ({model}.quantization: int8_wo or int4_wo)."
)
_GPU_MEMORY = (
    "Lower limits.max_batch_size, then limits.max_seq_len and speculation.draft_length; or spread the model "
    "with a larger {model}.tp_size, or quantise it. Nothing else may use the GPU meanwhile (nvidia-smi)."
)
_HOST_MEMORY = (
    "The machine's memory ran out: converting needs about the size of the weights, building as much per "
    "rank. Close other programs, or use a machine with more memory."
)

# Text in the log -> remedy, the first match wins. {model} is target or draft.
_KNOWN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        (r"OutOfMemory|CUDA out of memory|[Cc]uda ?[Ee]rror.*out of memory", _GPU_MEMORY),
        (r"Requested amount of GPU memory .* could not be allocated", _GPU_MEMORY),
        (r"No space left on device|\[Errno (28|122|27)\]", "Free space, or set another output."),
        (r"MemoryError|std::bad_alloc|Cannot allocate memory", _HOST_MEMORY),
        (
            r"Cannot connect to the Docker daemon|permission denied while trying to connect to the [Dd]ocker",
            "Start docker, or add your user to the docker group; or set tensorrt_llm.execution: local where "
            "TensorRT-LLM is installed.",
        ),
        (
            r"could not select device driver|nvidia-container-cli",
            "Install the NVIDIA Container Toolkit and restart docker.",
        ),
        (
            r"manifest unknown|pull access denied|manifest for .* not found",
            "Correct tensorrt_llm.image; for nvcr.io run `docker login nvcr.io` if the image is not public.",
        ),
        (
            r"is already in use by container",
            "The same step runs in another container: wait for it, or stop it with `docker kill NAME`.",
        ),
        (
            r"can't open file .*(convert_checkpoint|quantize)\.py",
            "The examples folder is elsewhere in this image: set tensorrt_llm.examples_dir to it.",
        ),
        (
            r"No module named ['\"]?(modelopt|nvidia_modelopt)",
            "Install nvidia-modelopt in the version that TensorRT-LLM's requirements name, or use the image.",
        ),
        (
            r"No module named ['\"]?examples",
            "Run where the examples' parent folder is importable: set PYTHONPATH to it, or use the image.",
        ),
        (
            r"ConnectionError|MaxRetryError|LocalEntryNotFound|OfflineMode|Temporary failure in name",
            "The calibration data could not be downloaded: set tensorrt_llm.calibration_dataset to a folder.",
        ),
        (r"unrecognized arguments", "Is tensorrt_llm.version the version that is installed in the image?"),
    )
)


def explain(step: Step, code: int, log: Path) -> BuildError:
    """The error for a ``step`` that ended with ``code``: the end of its log, and a remedy."""
    lines = tail(log)
    how = f"was killed (signal {code - 128})" if code > 128 else f"failed with exit code {code}"
    shown = "\n".join(f"    {line}" for line in lines)
    return BuildError(
        f"{step.name} {how}; the end of its log {log}:\n{shown}" if lines else f"{step.name} {how}; {log}",
        remedy=_remedy(step, code, lines, log),
    )


def _remedy(step: Step, code: int, lines: Iterable[str], log: Path) -> str:
    text = "\n".join(lines)
    known = next((remedy for pattern, remedy in _KNOWN if pattern.search(text)), None)
    if known is _GPU_MEMORY and step.name.endswith("quantize"):
        known = _CALIBRATION_MEMORY
    if known is not None:
        return known.format(model=step.model)
    if code == 137:
        return _HOST_MEMORY
    return f"{log} has the whole output. Run again after correcting the cause: finished steps are kept."


def tail(log: Path) -> list[str]:
    """The last lines of ``log``, however large it is, without control characters."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = (_CONTROL.sub("", line.rsplit("\r", 1)[-1]).rstrip() for line in text.split("\n"))
    return [line[:_LINE_LENGTH] for line in lines if line][-TAIL_LINES:]
