# SPDX-License-Identifier: Apache-2.0
"""Findings about a pair of TensorRT engines on the GPUs of this machine; none where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator

from specbuild.engines.quantization import FORMATS, MIN_CAPABILITY
from specbuild.pairing.finding import Finding, Pair


def capability(pair: Pair) -> Iterator[Finding]:
    """GPUs that are too old, or that do not compute in the chosen format."""
    for gpu in {gpu.capability: gpu for gpu in pair.gpus}.values():
        if gpu.capability < MIN_CAPABILITY:
            yield Finding.of(
                "gpu-too-old",
                "settings",
                f"{gpu.name} has compute capability {gpu.capability_text}; draft-target engines need 8.0",
                remedy="Use an Ampere, Ada, Hopper or Blackwell GPU; or runtime: torch.",
            )
            continue
        for subject, _, options in pair.models():
            if options.quantization and not FORMATS[options.quantization].runs_on(gpu.capability):
                fitting = [name for name, chosen in FORMATS.items() if chosen.runs_on(gpu.capability)]
                yield Finding.of(
                    "gpu-format-unsupported",
                    subject,
                    f"{gpu.name} (compute capability {gpu.capability_text}) does not run "
                    f"{options.quantization}",
                    remedy=f"Set {subject}.quantization to one of {', '.join(fitting)}, or null.",
                )


def number(pair: Pair) -> Iterator[Finding]:
    """Fewer GPUs than ranks: the engines can be built here one by one, but not be run."""
    for subject, _, options in pair.models():
        ranks = options.tp_size * options.pp_size
        if pair.gpus and ranks > len(pair.gpus):
            yield Finding.of(
                "gpus-too-few",
                subject,
                f"the {subject} is split over {ranks} GPUs, this machine has {len(pair.gpus)}",
                remedy=f"Lower {subject}.tp_size or pp_size, or run the engines where there are {ranks}.",
            )


def calibration_memory(pair: Pair) -> Iterator[Finding]:
    """quantize.py holds the 16-bit and the quantised weights on the GPUs at the same time."""
    available = sum(gpu.memory_bytes for gpu in pair.gpus)
    for subject, model, options in pair.models():
        chosen = FORMATS[options.quantization] if options.quantization else None
        if not available or chosen is None or not chosen.calibrated or model.weights is None:
            continue
        needed = model.weights.parameters * (16 + chosen.bits) / 8
        if needed > available:
            yield Finding.of(
                "gpu-memory-calibration",
                subject,
                f"calibrating {options.quantization} needs about {needed / 1e9:.0f} GB of GPU memory, "
                f"{available / 1e9:.0f} GB are here",
                remedy=f"Calibrate on a machine with more GPUs, or set {subject}.quantization: int8_wo.",
            )


RULES = (capability, number, calibration_memory)
