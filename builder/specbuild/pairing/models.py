# SPDX-License-Identifier: Apache-2.0
"""Findings about each model on its own: its architecture, number types and tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from specbuild.checkpoint import ModelConfig, Weights
from specbuild.pairing.finding import Finding, ModelName, Pair

# Families that the torch runtime's tests run, by config.json's model_type.
TESTED_BY_TORCH = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"})
COMPUTE_DTYPES = ("float32", "float16", "bfloat16")
_STORED_DTYPES = ("F32", "F16", "BF16", "F64")

# Names that tell an architecture without rotary attention or with a recurrent state by its tensors.
_POSITION_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings|pos_emb)\.weight$")
_RECURRENT = re.compile(r"\.(A_log|time_decay|time_mix|rg_lru|conv1d|linear_attn|conv)(\.|$)")
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|embed_in|embeddings|word_embeddings|tok_embeddings)\.weight$"
)
_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")
_LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.(.+)$")
_SHOWN = 3


def architecture(pair: Pair) -> Iterator[Finding]:
    """Models that the torch runtime cannot run, or that nobody has tried."""
    if pair.settings.runtime != "torch":
        return
    for subject, model, _ in pair.models():
        if model.config is None or model.config.model_type in TESTED_BY_TORCH:
            continue
        name = model.config.architecture
        obstacle = _obstacle(model.config, model.weights)
        if obstacle:
            yield Finding.of(
                "architecture-unsupported",
                subject,
                f"{name} {obstacle}; the torch runtime runs transformers with rotary attention",
                remedy="Use a model of the Llama, Mistral, Qwen or Gemma families.",
            )
        else:
            yield Finding.of(
                "architecture-untested",
                subject,
                f"{name} (model_type {model.config.model_type}) is not among the tested families",
                remedy="Compare its greedy output with and without speculation before relying on it.",
            )


def _obstacle(config: ModelConfig, weights: Weights | None) -> str | None:
    """Why the model is no rotary transformer, as far as its tensors and config tell."""
    names = weights.tensors if weights else ()
    if any(_RECURRENT.search(name) for name in names):
        return "has a recurrent state, which cannot be rolled back"
    if config.raw.get("alibi") is True or config.model_type in {"bloom", "mpt"}:
        return "uses ALiBi instead of rotary positions"
    if any(_POSITION_TABLE.search(name) for name in names):
        return "has learned absolute positions"
    return None


def torch_limits(pair: Pair) -> Iterator[Finding]:
    """Settings and checkpoints that only the GPU runtimes can serve."""
    if pair.settings.runtime != "torch":
        return
    for subject, model, options in pair.models():
        if model.config and model.config.quantization:
            yield Finding.of(
                "quantization-unsupported",
                subject,
                f"the {subject} is quantised ({model.config.quantization})",
                remedy="Use unquantised weights, or another runtime.",
            )
        if options.quantization not in (None, "int8_wo"):
            yield Finding.of(
                "quantization-unsupported",
                subject,
                f"{subject}.quantization is {options.quantization}",
                remedy=f"Set {subject}.quantization to int8_wo (on a GPU) or null, or use another runtime.",
            )
        elif options.quantization and pair.settings.torch.device == "cpu":
            yield Finding.of(
                "quantization-unsupported",
                subject,
                f"{subject}.quantization is {options.quantization}, which needs a GPU; torch.device is cpu",
                remedy=f"Set {subject}.quantization to null, or torch.device to auto.",
            )
        if options.tp_size * options.pp_size > 1:
            yield Finding.of(
                "parallelism-unsupported",
                subject,
                f"{subject}.tp_size {options.tp_size} and pp_size {options.pp_size} ask for several GPUs",
                remedy=f"Set {subject}.tp_size and {subject}.pp_size to 1, or use another runtime.",
            )


def dtype(pair: Pair) -> Iterator[Finding]:
    """Number types that cannot be computed in, or lose the weights' range."""
    for subject, model, options in pair.models():
        config, weights = model.config, model.weights
        if config is None or weights is None or config.quantization:
            continue
        if weights.dtype not in _STORED_DTYPES:
            yield Finding.of(
                "dtype-unsupported",
                subject,
                f"the weights are stored as {weights.dtype}, but config.json has no quantization_config",
                remedy="Use the checkpoint in bfloat16, float16 or float32.",
            )
        elif options.dtype == "auto" and config.dtype not in (None, "auto", *COMPUTE_DTYPES):
            yield Finding.of(
                "dtype-unsupported",
                subject,
                f"config.json asks for the type {config.dtype!r:.60}",
                remedy=f"Set {subject}.dtype to one of {', '.join(COMPUTE_DTYPES)}.",
            )
        elif options.dtype == "float16" and weights.dtype == "BF16":
            yield Finding.of(
                "dtype-narrowed",
                subject,
                "bfloat16 weights are cast to float16, which ends at 65504",
                remedy=f"Set {subject}.dtype: bfloat16, or auto.",
            )


def tensors(pair: Pair) -> Iterator[Finding]:
    """Tensors that the architecture needs: embedding, output, every layer complete, shapes as configured."""
    for subject, model, _ in pair.models():
        if model.config is None or model.weights is None:
            continue
        yield from _missing(subject, model.config, model.weights)
        yield from _misshapen(subject, model.config, model.weights)


def _missing(subject: ModelName, config: ModelConfig, weights: Weights) -> Iterator[Finding]:
    absent = [] if any(map(_EMBEDDING.search, weights.tensors)) else ["the input embedding"]
    if not config.tie_word_embeddings and not any(map(_OUTPUT.search, weights.tensors)):
        absent.append("the output layer (lm_head.weight; tie_word_embeddings is false)")
    absent += _incomplete_layers(config, weights)
    if absent:
        more = f", and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        yield Finding.of(
            "tensor-missing",
            subject,
            f"the weights lack {', '.join(absent[:_SHOWN])}{more}",
            remedy="Download the checkpoint again; transformers would fill these with random numbers.",
        )


def _incomplete_layers(config: ModelConfig, weights: Weights) -> list[str]:
    """Layers, or tensors of layers, that are absent. Only known dense families have equal layers."""
    layers: defaultdict[int, set[str]] = defaultdict(set)
    for name in weights.tensors:
        if match := _LAYER.search(name):
            layers[int(match[1])].add(match[2])
    if config.model_type not in TESTED_BY_TORCH or config.num_experts:
        return [f"layer {index}" for index in range(config.num_layers) if index not in layers]
    every = set().union(*layers.values())
    absent = []
    for index in range(config.num_layers):
        if index not in layers:
            absent.append(f"layer {index}")
        else:
            absent += [f"layer {index}'s {name}" for name in sorted(every - layers[index])]
    return absent


def _misshapen(subject: ModelName, config: ModelConfig, weights: Weights) -> Iterator[Finding]:
    for name, expected in _expected_shapes(config, weights):
        shape = weights.tensors[name].shape
        if shape != expected:
            yield Finding.of(
                "tensor-shape",
                subject,
                f"{name} has the shape {list(shape)}, but config.json means {list(expected)}",
                remedy="Take config.json and weights from one revision of the checkpoint.",
            )


def _expected_shapes(config: ModelConfig, weights: Weights) -> Iterator[tuple[str, tuple[int, int]]]:
    """Shapes that follow from config.json alone, of tensors that are present and not packed."""
    if config.quantization:
        return
    known = config.model_type in TESTED_BY_TORCH and not config.num_experts
    rows = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads, "v_proj": config.num_kv_heads}
    for name in weights.tensors:
        if _EMBEDDING.search(name) or _OUTPUT.search(name):
            yield name, (config.vocab_size, config.hidden_size)
        elif known and (match := re.search(r"\.0\.self_attn\.([qkv]_proj)\.weight$", name)):
            yield name, (rows[match[1]] * config.head_dim, config.hidden_size)


RULES = (architecture, torch_limits, dtype, tensors)
