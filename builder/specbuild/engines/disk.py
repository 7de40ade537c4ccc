# SPDX-License-Identifier: Apache-2.0
"""Is there room for what is about to be written? Asked before an hour of work, not after it."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from specbuild.config import Config, Model
from specbuild.engines.plan import Step
from specbuild.engines.quantization import FORMATS
from specbuild.engines.steps import Source
from specbuild.errors import BuildError
from specbuild.pairing.finding import ModelName

_MARGIN = 1.05
"""Scales, tokenizers, alignment."""


def require(steps: Iterable[Step], settings: Config, sources: Mapping[ModelName, Source]) -> None:
    """Raises BuildError naming need and free space when the outputs of ``steps`` do not fit.

    What a step replaces stays until the new output is complete, so it counts as used.
    """
    options: dict[ModelName, Model] = {"target": settings.target, "draft": settings.draft}
    needs: dict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    for step in steps:
        place = _existing(step.folder)
        device = place.stat().st_dev
        places[device] = place
        needs[device] += weight_bytes(sources[step.model], options[step.model].quantization)
    for device, place in places.items():
        free = shutil.disk_usage(place).free
        if needs[device] > free:
            raise BuildError(
                f"the engines need about {needs[device] / 1e9:.1f} GB under {place}, "
                f"{free / 1e9:.1f} GB are free",
                remedy="Free space, or set another output. After a build, output/checkpoints may be deleted.",
            )


def weight_bytes(source: Source, quantization: str | None) -> int:
    """About how large the weights are in a TensorRT-LLM checkpoint, and again in its engines.

    Embedding and output layer stay in 16 bits.
    """
    if quantization is None:
        return int(source.parameters * 2 * _MARGIN)
    plain = min(2 * source.vocab_size * source.hidden_size, source.parameters)
    bits = 16 * plain + FORMATS[quantization].bits * (source.parameters - plain)
    return int(bits / 8 * _MARGIN)


def _existing(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())
