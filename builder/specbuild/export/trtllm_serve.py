# SPDX-License-Identifier: Apache-2.0
"""trtllm-serve: TensorRT-LLM's OpenAI server, with the LLM API's arguments in a YAML file.

Source in NVIDIA/TensorRT-LLM: tensorrt_llm/commands/serve.py at 00209af1 and 4c05a748. Whether flag or file
wins changed between releases, so no setting is in both.
"""

from __future__ import annotations

import yaml

from specbuild.config import Config
from specbuild.engines.llmapi_arguments import model_yaml
from specbuild.engines.llmapi_versions import dialect
from specbuild.errors import ConfigError
from specbuild.export.command import (
    Command,
    Pair,
    draft_parallel_warning,
    flags,
    refuse_pipeline,
    unquantised_warning,
)

# Argument of the LLM API -> trtllm-serve's flag.
_FLAGS = {
    "tensor_parallel_size": "tp_size",
    "max_batch_size": "max_batch_size",
    "max_num_tokens": "max_num_tokens",
    "max_seq_len": "max_seq_len",
    "trust_remote_code": "trust_remote_code",
}
_IMPLIED = ("model", "backend", "pipeline_parallel_size")


def command(settings: Config, pair: Pair) -> Command:
    """``trtllm-serve`` and its YAML file. Raises ConfigError for what the release's LLM API cannot do."""
    refuse_pipeline(settings, "trtllm-serve")
    spelling = dialect(settings.tensorrt_llm.version)
    if settings.speculation.acceptance == "logits" and spelling.rejection_sampling is None:
        raise ConfigError(
            f"the LLM API of TensorRT-LLM {settings.tensorrt_llm.version} has no rejection sampling",
            remedy="Set speculation.acceptance=exact, or tensorrt_llm.version to 1.3.0rc22 or later.",
        )
    target, draft = pair.target, pair.draft
    document = model_yaml(settings, spelling, target=target.checkpoint, draft=draft.checkpoint)
    if target.revision is not None:
        document["revision"] = target.revision
    values = {flag: document.pop(key) for key, flag in _FLAGS.items() if key in document}
    for key in _IMPLIED:
        del document[key]
    name = f"{settings.name}.trtllm.yaml"
    serving = settings.serving
    options = {
        "host": serving.host,
        "port": serving.http_port,
        **values,
        spelling.serve_option.removeprefix("--"): name,
    }
    return Command(
        "trtllm-serve",
        f"TensorRT-LLM {spelling.name} (tensorrt_llm.version {settings.tensorrt_llm.version})",
        ("trtllm-serve", target.checkpoint, *flags(options)),
        {name: yaml.safe_dump(document, sort_keys=False, allow_unicode=True)},
        tuple(_warnings(settings, pair)),
    )


def _warnings(settings: Config, pair: Pair) -> list[str]:
    name = "trtllm-serve"
    warnings = draft_parallel_warning(settings, name) + unquantised_warning(settings, pair, name)
    if pair.draft.revision is not None:
        warnings.append("draft.revision is left out: the LLM API takes a hub id's main revision")
    if settings.kv_cache.dtype == "int8":
        warnings.append("the LLM API has no int8 KV cache: set kv_cache.dtype to fp8 or auto")
    return warnings
