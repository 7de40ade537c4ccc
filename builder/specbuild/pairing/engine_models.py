# SPDX-License-Identifier: Apache-2.0
"""Findings about the models of a pair of TensorRT engines: can they be converted, quantised and split?"""

from __future__ import annotations

from collections.abc import Iterator

from specbuild.checkpoint import Examination, ModelConfig
from specbuild.config import Model
from specbuild.engines.families import FAMILIES, Family
from specbuild.engines.quantization import AWQ_GROUP, FORMATS, engine_rows
from specbuild.pairing.finding import Finding, ModelName, Pair

# quantize.py takes a path with one of these words for another kind of model
# (tensorrt_llm/quantization/quantize_by_modelopt.py at 042c510d).
_MISREAD_WORDS = ("mpt", "vila", "llava-onevision-qwen2")


def family(pair: Pair) -> Iterator[Finding]:
    """Architectures without a converter, or with reported trouble."""
    for subject, config, _, known in _known(pair):
        if known is None:
            yield Finding.of(
                "engine-family-unsupported",
                subject,
                f"specbuild knows no engine converter for model_type {config.model_type}",
                remedy=f"Use one of {', '.join(FAMILIES)}; or set runtime: llmapi.",
            )
            continue
        if config.quantization:
            yield Finding.of(
                "engine-checkpoint-quantised",
                subject,
                f"the checkpoint is quantised already ({config.quantization})",
                remedy=f"Name the unquantised checkpoint and set {subject}.quantization; or set "
                "runtime: llmapi.",
            )
        if known.reports:
            yield Finding.of(
                "engine-family-reported",
                subject,
                f"draft-target speculation with {known.title} engines was reported as not working: "
                f"{known.reports}",
                remedy="Build and try it on a few prompts first, or set runtime: llmapi.",
            )


def quantization(pair: Pair) -> Iterator[Finding]:
    """Formats that nothing makes for the family."""
    for subject, config, options, known in _known(pair):
        chosen = options.quantization
        if known is None or chosen is None:
            continue
        if not known.makes(chosen):
            yield Finding.of(
                "engine-quantization-unsupported",
                subject,
                f"{known.title}'s converter does not make {chosen}, and specbuild knows no other way",
                remedy=f"Set {subject}.quantization to one of {', '.join(sorted(known.documented_formats))}.",
            )
        elif chosen not in known.documented_formats:
            yield Finding.of(
                "engine-quantization-undocumented",
                subject,
                f"TensorRT-LLM's documentation does not list {chosen} for {known.title}",
                remedy=f"It lists {', '.join(sorted(known.documented_formats))}.",
            )
        if chosen == "int8_sq" and config.model_type.startswith("gemma") and options.dtype != "float16":
            yield Finding.of(
                "engine-dtype-unsupported",
                subject,
                "SmoothQuant of Gemma works with float16 only",
                remedy=f"Set {subject}.dtype: float16, or another quantization.",
            )


def dtype(pair: Pair) -> Iterator[Finding]:
    """Compute types that engines of a pair do not have, or do not share."""
    computed = {}
    for subject, model, options in pair.models():
        if options.dtype == "float32":
            yield Finding.of(
                "engine-dtype-unsupported",
                subject,
                "draft-target speculation runs in float16, bfloat16 or FP8, not in float32",
                remedy=f"Set {subject}.dtype: bfloat16.",
            )
        computed[subject] = model.dtype if options.dtype == "auto" else options.dtype
    if None not in computed.values() and len(set(computed.values())) > 1:
        yield Finding.of(
            "engine-dtype-differs",
            "pair",
            f"the target computes in {computed['target']}, the draft in {computed['draft']}",
            remedy="Set both models' dtype to the same type; NVIDIA's examples use one for both.",
        )


def parallelism(pair: Pair) -> Iterator[Finding]:
    """Splits over GPUs that the model's shape does not allow."""
    for subject, config, options, known in _known(pair):
        for reason in _bad_splits(config, options, known):
            yield Finding.of(
                "engine-split-impossible",
                subject,
                reason,
                remedy=f"Choose {subject}.tp_size and {subject}.pp_size that divide the model.",
            )
        if options.pp_size > 1 and not (known and not known.pipeline_parallel):
            yield Finding.of(
                "engine-pipeline-untested",
                subject,
                "draft-target speculation with pipeline parallelism is not documented",
                remedy=f"Prefer tensor parallelism: {subject}.pp_size: 1.",
            )


def _bad_splits(config: ModelConfig, options: Model, known: Family | None) -> Iterator[str]:
    parts = options.tp_size
    if config.num_heads % parts:
        yield f"{config.num_heads} attention heads cannot be split over {parts} GPUs"
    elif config.num_kv_heads % parts and parts % config.num_kv_heads:
        yield f"{config.num_kv_heads} KV heads can neither be split nor repeated over {parts} GPUs"
    if options.pp_size > config.num_layers:
        yield f"{config.num_layers} layers cannot be split over {options.pp_size} stages"
    if known and not known.pipeline_parallel and options.pp_size > 1:
        yield f"TensorRT-LLM documents no pipeline parallelism for {known.title}"
    if options.quantization and FORMATS[options.quantization].groups:
        columns = {
            "attention output": config.num_heads * config.head_dim,
            "feed-forward": config.intermediate_size or 0,
        }
        for name, width in columns.items():
            if width % (parts * AWQ_GROUP):
                yield f"AWQ: {width} {name} columns are no whole groups of {AWQ_GROUP} on {parts} GPU(s)"


def context(pair: Pair) -> Iterator[Finding]:
    """Sequences longer than the family's engines support, or than its attention window."""
    wanted = pair.settings.limits.max_seq_len
    for subject, config, _, known in _known(pair):
        if known and known.max_positions and wanted > known.max_positions:
            yield Finding.of(
                "engine-context-too-long",
                subject,
                f"engines of {known.title} take at most {known.max_positions} positions",
                remedy=f"Set limits.max_seq_len to {known.max_positions} or less.",
            )
        elif config.sliding_window and wanted > config.sliding_window:
            yield Finding.of(
                "engine-window-ignored",
                subject,
                f"layers that attend to the last {config.sliding_window} tokens will attend to all {wanted}: "
                "a window in the engine's cache would rule out the reuse of the prefix",
                remedy=f"Set limits.max_seq_len to {config.sliding_window}, or check the text's quality.",
            )


def vocabulary(pair: Pair) -> Iterator[Finding]:
    """Draft logits fit the target only when both have as many rows."""
    target, draft = pair.target.config, pair.draft.config
    if pair.settings.speculation.acceptance != "logits" or target is None or draft is None:
        return
    rows = [
        engine_rows(config.vocab_size, options.quantization)
        for config, options in ((target, pair.settings.target), (draft, pair.settings.draft))
    ]
    if rows[0] != rows[1]:
        yield Finding.of(
            "logits-vocab-differs",
            "pair",
            f"acceptance: logits compares distributions, but the target's engine has {rows[0]} rows and the "
            f"draft's {rows[1]} (padding counts)",
            remedy="Set speculation.acceptance: exact, or take a draft with the same config.json vocab_size "
            "(AWQ pads it to a multiple of 64).",
        )


def path(pair: Pair) -> Iterator[Finding]:
    """Folders whose name makes quantize.py load another kind of model."""
    for subject, model, options in pair.models():
        if model.folder is None or not options.quantization or not FORMATS[options.quantization].calibrated:
            continue
        words = [word for word in _MISREAD_WORDS if word in str(model.folder.absolute())]
        if words:
            yield Finding.of(
                "path-misread",
                subject,
                f"{model.folder.absolute()} contains {words[0]!r}, from which quantize.py concludes that the "
                "model is of another kind",
                remedy="Move or copy the checkpoint to a path without that word.",
            )


def _known(pair: Pair) -> Iterator[tuple[ModelName, ModelConfig, Model, Family | None]]:
    """The models whose config.json could be read."""
    model: Examination
    for subject, model, options in pair.models():
        if model.config is not None:
            yield subject, model.config, options, FAMILIES.get(model.config.model_type)


RULES = (family, quantization, dtype, parallelism, context, vocabulary, path)
