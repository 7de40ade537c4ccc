# SPDX-License-Identifier: Apache-2.0
"""Every code a finding can have. ``docs/findings.md`` is ``markdown()``; a test holds them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class Code(NamedTuple):
    """How grave a finding of this kind is, and what it means."""

    severity: Severity
    meaning: str


CODES: Mapping[str, Code] = {
    # One checkpoint: files
    "checkpoint-missing": Code("error", "Neither a folder nor a hub id that can be reached."),
    "file-missing": Code("error", "A file that the checkpoint needs is absent or cannot be read."),
    "file-invalid": Code("error", "A JSON file, the tokenizer or the template cannot be understood."),
    "file-outside": Code("error", "A file name or a link leads out of the checkpoint."),
    "weights-missing": Code("error", "There are no safetensors weights."),
    "weights-pickled": Code("error", "The weights are pickles, which can run code when they are loaded."),
    "shard-missing": Code("error", "The index names a file that is not there."),
    "shard-corrupt": Code("error", "A safetensors file is truncated or its header contradicts itself."),
    "index-mismatch": Code("error", "Index and safetensors files disagree about a tensor."),
    "custom-code": Code("error", "The checkpoint brings Python code, which is not trusted."),
    "custom-code-trusted": Code("warning", "The checkpoint's own Python code will run with your rights."),
    "tokenizer-missing": Code("error", "There is no tokenizer.json."),
    # One checkpoint: the model
    "architecture-unsupported": Code(
        "error", "Not a text-only causal language model, or for the torch runtime not a rotary transformer."
    ),
    "architecture-untested": Code("warning", "Should work, but no test covers this family."),
    "quantization-unsupported": Code(
        "error", "The torch runtime reads unquantised weights, and rounds them to int8_wo at most, on a GPU."
    ),
    "parallelism-unsupported": Code("error", "The torch runtime uses one device."),
    "dtype-unsupported": Code("error", "The weights' type is none that the runtime computes in."),
    "dtype-narrowed": Code("warning", "bfloat16 weights as float16: values above 65504 become infinite."),
    "tensor-missing": Code("error", "A tensor that the architecture needs is not in the weights."),
    "tensor-shape": Code("error", "A tensor's shape contradicts config.json."),
    "token-without-row": Code("warning", "The tokenizer defines ids for which the model has no embedding."),
    "eos-missing": Code(
        "warning", "The target has no end token: only max_tokens and stop words end its text."
    ),
    # The pair
    "vocab-size-differs": Code(
        "error",
        "One model has a token whose id the other has no row for. Extra rows are legal only as padding: "
        "no tokenizer of the pair defines their ids, so no prompt holds them and none may be generated.",
    ),
    "vocab-padding-differs": Code(
        "info", "The numbers of rows differ by padding only; ids in the padding are never generated."
    ),
    "token-text-differs": Code("error", "An id stands for different text in the two tokenizers."),
    "special-tokens-differ": Code("warning", "Ids of added or special tokens stand for different text."),
    "tokenizer-rules-differ": Code("warning", "The tokenizers cut text differently, with the same tokens."),
    "bos-differs": Code("warning", "The models begin a text with different tokens; the target's is used."),
    "eos-differs": Code("warning", "The models end a text with different tokens; the target's are used."),
    "chat-template-differs": Code("info", "The chat templates differ; the target's is used."),
    "chat-template-one-sided": Code(
        "warning", "Only one model has a chat template: the other is a base model."
    ),
    "draft-is-target": Code("warning", "Both are the same checkpoint: exact, but never faster."),
    "draft-larger-than-target": Code("error", "The draft computes more per token than the target."),
    "draft-too-large": Code(
        "warning", "The draft computes more than half of what the target does per token."
    ),
    # The settings
    "context-too-short": Code("error", "limits.max_seq_len exceeds the positions that a model knows."),
    "max-seq-len-too-small": Code("error", "Not even one round of draft tokens fits limits.max_seq_len."),
    "draft-length-over-output": Code(
        "warning", "After the longest prompt, less output fits than one round drafts."
    ),
    # TensorRT engines: the settings
    "engines-unavailable": Code("error", "This TensorRT-LLM builds no engines, or none that is supported."),
    "engines-prerelease": Code("warning", "A pre-release of TensorRT-LLM."),
    "image-version-differs": Code("error", "The image holds another TensorRT-LLM than the settings name."),
    "kv-reuse-off": Code(
        "error", "Without reuse of the KV cache every round computes the whole prefix again."
    ),
    "kv-int8": Code("error", "An INT8 KV cache rules out paged context FMHA, and with it KV reuse."),
    "kv-fp8-needs-fp8-weights": Code("error", "An FP8 KV cache works with FP8 arithmetic only."),
    "draft-length-unusual": Code("warning", "Longer drafts than NVIDIA advises."),
    "calibration-data-missing": Code("error", "The calibration data is neither a known name nor a folder."),
    # TensorRT engines: the models
    "engine-family-unsupported": Code("error", "TensorRT-LLM's converters do not know this model_type."),
    "engine-family-reported": Code("warning", "Users reported trouble with this family in this mode."),
    "engine-checkpoint-quantised": Code("error", "Engines are made from unquantised checkpoints."),
    "engine-quantization-unsupported": Code("error", "Nothing makes this format for this family."),
    "engine-quantization-undocumented": Code("warning", "TensorRT-LLM does not document it for this family."),
    "engine-dtype-unsupported": Code("error", "Engines of a pair do not compute in this type."),
    "engine-dtype-differs": Code("warning", "Target and draft compute in different types."),
    "engine-split-impossible": Code("error", "The model cannot be split over that many GPUs."),
    "engine-pipeline-untested": Code("warning", "Speculation with pipeline parallelism is not documented."),
    "engine-context-too-long": Code("error", "Engines of this family take fewer positions."),
    "engine-window-ignored": Code(
        "warning", "The engine attends to everything where the model had a window."
    ),
    "logits-vocab-differs": Code("error", "Acceptance by logits needs vocabularies of equal size."),
    "path-misread": Code("error", "quantize.py takes the checkpoint for another kind because of its path."),
    # TensorRT engines: the GPUs of this machine
    "gpu-too-old": Code("error", "Draft-target engines need compute capability 8.0."),
    "gpu-format-unsupported": Code("error", "This GPU does not run the quantization."),
    "gpus-too-few": Code("warning", "The engines can be built here, but not be run."),
    "gpu-memory-calibration": Code("warning", "Calibration will probably run out of GPU memory."),
    # The LLM API
    "llmapi-version-unsupported": Code("error", "The LLM API is supported from TensorRT-LLM 1.0 on."),
    "llmapi-pipeline-parallel": Code("error", "The LLM API does not speculate under pipeline parallelism."),
    "llmapi-draft-parallel": Code("warning", "The LLM API gives the draft the target's parallelism."),
    "llmapi-acceptance": Code("error", "This release's LLM API has no rejection sampling."),
    "llmapi-kv-dtype": Code("error", "The LLM API has no INT8 KV cache."),
    "llmapi-quantization": Code("error", "ModelOpt cannot export this format, or the checkpoint has one."),
    "llmapi-calibration": Code("error", "hf_ptq.py does not know the calibration data."),
}


def markdown() -> str:
    """The page that lists all codes."""
    lines = [
        "# Findings of `specbuild check`",
        "",
        "Each finding has a stable code, a severity, what it is about, a reason and a remedy. With an error",
        "the pair cannot work and the exit code is 1; warnings cost speed or quality; infos need nothing.",
        "",
        "| code | severity | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {code.severity} | {code.meaning} |" for name, code in CODES.items()]
    return "\n".join(lines) + "\n"
