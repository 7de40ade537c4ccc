# SPDX-License-Identifier: Apache-2.0
"""What TensorRT-LLM's LLM API cannot do with a pair (runtime llmapi)."""

from __future__ import annotations

from collections.abc import Iterator

from specbuild.engines import modelopt
from specbuild.engines.llmapi_versions import Dialect, dialect
from specbuild.errors import ConfigError
from specbuild.pairing.finding import Finding, Pair


def version(pair: Pair) -> Iterator[Finding]:
    """The LLM API is known from 1.0 on."""
    if _dialect(pair) is None:
        wanted = pair.settings.tensorrt_llm.version
        yield Finding.of(
            "llmapi-version-unsupported",
            "settings",
            f"the LLM API of TensorRT-LLM {wanted} has no draft-target speculation that is known",
            remedy="Set tensorrt_llm.version to 1.0.0 or later.",
        )


def _dialect(pair: Pair) -> Dialect | None:
    try:
        return dialect(pair.settings.tensorrt_llm.version)
    except ConfigError:
        return None


def parallelism(pair: Pair) -> Iterator[Finding]:
    """Speculation excludes pipeline parallelism, and the draft is split as the target is.

    NVIDIA/TensorRT-LLM, docs/source/features/feature-combination-matrix.md at 01edceae; pull request 11838,
    which would have given the draft a size of its own, was closed.
    """
    target, draft = pair.settings.target, pair.settings.draft
    if target.pp_size > 1 or draft.pp_size > 1:
        yield Finding.of(
            "llmapi-pipeline-parallel",
            "settings",
            "the LLM API does not speculate under pipeline parallelism",
            remedy="Set pp_size to 1 for both models and raise target.tp_size, or use runtime: tensorrt_llm.",
        )
    if draft.tp_size not in (1, target.tp_size):
        yield Finding.of(
            "llmapi-draft-parallel",
            "draft",
            f"draft.tp_size {draft.tp_size} is not used: the LLM API splits the draft over the target's "
            f"{target.tp_size} GPUs",
            remedy="Leave draft.tp_size out.",
        )


def acceptance(pair: Pair) -> Iterator[Finding]:
    """Rejection sampling came after the engines had gone."""
    spelling = _dialect(pair)
    wanted = pair.settings.speculation.acceptance == "logits"
    if wanted and spelling is not None and spelling.rejection_sampling is None:
        yield Finding.of(
            "llmapi-acceptance",
            "settings",
            f"the LLM API of TensorRT-LLM {pair.settings.tensorrt_llm.version} compares tokens: it has no "
            "rejection sampling",
            remedy="Set speculation.acceptance: exact, or tensorrt_llm.version to 1.3.0rc22 or later.",
        )


def formats(pair: Pair) -> Iterator[Finding]:
    """Weight and cache formats that the LLM API or ModelOpt's export does not have."""
    if pair.settings.kv_cache.dtype == "int8":
        yield Finding.of(
            "llmapi-kv-dtype",
            "settings",
            "the LLM API has no int8 KV cache",
            remedy="Set kv_cache.dtype: fp8 (Ada, Hopper, Blackwell) or auto.",
        )
    for subject, model, options in pair.models():
        wanted, stored = options.quantization, model.config and model.config.quantization
        if wanted is not None and wanted not in modelopt.FORMATS:
            yield Finding.of(
                "llmapi-quantization",
                subject,
                f"ModelOpt exports no {wanted} checkpoint for the LLM API",
                remedy=f"Set {subject}.quantization to one of {', '.join(sorted(modelopt.FORMATS))}.",
            )
        elif wanted is not None and stored:
            yield Finding.of(
                "llmapi-quantization",
                subject,
                f"the checkpoint is quantised already ({stored})",
                remedy=f"Set {subject}.quantization: null; the LLM API loads it as it is.",
            )


def calibration(pair: Pair) -> Iterator[Finding]:
    """hf_ptq.py calibrates on data sets that it knows by name."""
    dataset = pair.settings.tensorrt_llm.calibration_dataset
    quantised = any(options.quantization for _, _, options in pair.models())
    if quantised and dataset not in modelopt.DATASETS:
        yield Finding.of(
            "llmapi-calibration",
            "settings",
            f"hf_ptq.py does not know the data set {dataset!r:.80}",
            remedy=f"Set tensorrt_llm.calibration_dataset to one of {', '.join(modelopt.DATASETS)}.",
        )


RULES = (version, parallelism, acceptance, formats, calibration)
