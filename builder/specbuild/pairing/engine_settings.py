# SPDX-License-Identifier: Apache-2.0
"""Findings about the settings of a pair of TensorRT engines, whatever the models are.

The limits are those of TensorRT-LLM's draft-target mode: examples/draft_target_model/README.md at 567239f
and tensorrt_llm/builder.py at 008b2b8d of NVIDIA/TensorRT-LLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from specbuild.engines import releases
from specbuild.engines.quantization import CALIBRATION_NAMES, FORMATS
from specbuild.pairing.finding import Finding, Pair

_USUAL_DRAFT_LENGTH = 10


def release(pair: Pair) -> Iterator[Finding]:
    """A TensorRT-LLM that builds no engines, or an image that holds another one."""
    wanted = pair.settings.tensorrt_llm
    if sentence := releases.refusal(wanted.version):
        yield Finding.of(
            "engines-unavailable",
            "settings",
            sentence,
            remedy=f"Set tensorrt_llm.version: {releases.RECOMMENDED} and tensorrt_llm.image: "
            f"{releases.image_with(releases.RECOMMENDED)}; or runtime: llmapi.",
        )
        return
    if releases.Release.parse(wanted.version).numbers >= (1, 3, 0):
        yield Finding.of(
            "engines-prerelease",
            "settings",
            f"TensorRT-LLM {wanted.version} is a pre-release; the flags were read for 1.0 to 1.2",
            remedy=f"Prefer {releases.RECOMMENDED}, the last stable release with engines.",
        )
    inside = releases.version_in(wanted.image)
    if wanted.execution != "local" and inside and not releases.same(inside, wanted.version):
        image = releases.newest_image(wanted.version)
        other = (
            f"tensorrt_llm.image: {image}" if image else "tensorrt_llm.execution: local where it is installed"
        )
        yield Finding.of(
            "image-version-differs",
            "settings",
            f"{wanted.image} holds TensorRT-LLM {inside}, but tensorrt_llm.version is {wanted.version}",
            remedy=f"Set {other}, or tensorrt_llm.version: {inside}.",
        )


def kv_cache(pair: Pair) -> Iterator[Finding]:
    """Caches whose blocks cannot be reused; each round of speculation sends the whole prefix again."""
    cache = pair.settings.kv_cache
    if not cache.reuse:
        yield Finding.of(
            "kv-reuse-off",
            "settings",
            "kv_cache.reuse is false: each round would compute the whole prefix again, in both models",
            remedy="Set kv_cache.reuse: true.",
        )
    if cache.dtype == "int8":
        yield Finding.of(
            "kv-int8",
            "settings",
            "with an INT8 cache TensorRT-LLM turns paged context FMHA off, and with it KV reuse",
            remedy="Set kv_cache.dtype: auto, or fp8 with FP8 weights.",
        )
    for subject, _, options in pair.models():
        chosen = FORMATS[options.quantization] if options.quantization else None
        if cache.dtype == "fp8" and not (chosen and chosen.fp8_kv):
            yield Finding.of(
                "kv-fp8-needs-fp8-weights",
                subject,
                f"an FP8 cache needs FP8 arithmetic, but {subject}.quantization is "
                f"{options.quantization or 'null'}: TensorRT-LLM would turn paged context FMHA off",
                remedy=f"Set {subject}.quantization to fp8, w4a8_awq or nvfp4, or kv_cache.dtype: auto.",
            )


def draft_length(pair: Pair) -> Iterator[Finding]:
    """More draft tokens than pay off."""
    chosen = pair.settings.speculation.draft_length
    if chosen > _USUAL_DRAFT_LENGTH:
        yield Finding.of(
            "draft-length-unusual",
            "settings",
            f"speculation.draft_length is {chosen}; NVIDIA advises 4 to {_USUAL_DRAFT_LENGTH}",
            remedy="Lower it unless the draft's acceptance is very high.",
        )


def calibration(pair: Pair) -> Iterator[Finding]:
    """Calibration data that is not there."""
    dataset = pair.settings.tensorrt_llm.calibration_dataset
    calibrated = [
        subject
        for subject, _, options in pair.models()
        if options.quantization and FORMATS[options.quantization].calibrated
    ]
    if calibrated and dataset not in CALIBRATION_NAMES and not Path(dataset).expanduser().is_dir():
        yield Finding.of(
            "calibration-data-missing",
            "settings",
            f"tensorrt_llm.calibration_dataset {dataset} is no folder, and quantize.py downloads only "
            f"{', '.join(sorted(CALIBRATION_NAMES))}",
            remedy="Name a folder with a data set that has a train split and a text column.",
        )


RULES = (release, kv_cache, draft_length, calibration)
