# SPDX-License-Identifier: Apache-2.0
"""SGLang: ``sglang.launch_server`` with the STANDALONE algorithm.

Sources in sgl-project/sglang: docs/advanced_features/speculative_decoding.md at 067ad4d3,
docs/advanced_features/server_arguments.md at 004813e1, python/sglang/srt/speculative/standalone_worker.py
at 08dae28a (one parallel layout for both models, no pipeline parallelism). Pull request 23838 (April 2026)
checks the vocabularies at the start; before it, a mismatch corrupts the text silently (issue 24051).
"""

from __future__ import annotations

from specbuild.config import Config
from specbuild.errors import ConfigError
from specbuild.export.command import (
    Command,
    Pair,
    draft_parallel_warning,
    flags,
    refuse_pipeline,
    unquantised_warning,
)

_VERSIONS = "releases with --speculative-algorithm STANDALONE; flags read in the documentation of 2026"

# Formats of ModelOpt's export that SGLang loads, by the name of its --quantization.
_QUANTIZATIONS = {"fp8": "modelopt_fp8", "nvfp4": "modelopt_fp4"}


def command(settings: Config, pair: Pair) -> Command:
    """The launch command for the pair. Raises ConfigError for pipelines and differing vocabularies."""
    refuse_pipeline(settings, "SGLang")
    if pair.vocabularies_differ:
        raise ConfigError(
            f"SGLang needs one vocabulary; the models have {pair.target.vocab_size} and "
            f"{pair.draft.vocab_size} rows",
            remedy="Take a draft with the target's vocab_size, or export to vLLM or trtllm-serve.",
        )
    target, draft, limits, cache = settings.target, settings.draft, settings.limits, settings.kv_cache
    options = {
        "model-path": pair.target.checkpoint,
        "revision": pair.target.revision,
        "host": settings.serving.host,
        "port": settings.serving.http_port,
        "dtype": target.dtype,
        "quantization": _QUANTIZATIONS.get(pair.target.quantization or ""),
        "trust-remote-code": target.trust_remote_code or draft.trust_remote_code,
        "tp-size": target.tp_size,
        "context-length": limits.max_seq_len,
        "max-running-requests": limits.max_batch_size,
        "max-queued-requests": settings.serving.max_queue_size,
        "kv-cache-dtype": "fp8_e4m3" if cache.dtype == "fp8" else None,
        "disable-radix-cache": not cache.reuse,
        "speculative-algorithm": "STANDALONE",
        "speculative-draft-model-path": pair.draft.checkpoint,
        "speculative-draft-model-revision": pair.draft.revision,
        "speculative-draft-model-quantization": _draft_quantization(pair),
        # A chain: one candidate per step, and room to verify the steps and the bonus token.
        "speculative-num-steps": settings.speculation.draft_length,
        "speculative-eagle-topk": 1,
        "speculative-num-draft-tokens": settings.speculation.draft_length + 1,
    }
    argv = ("python3", "-m", "sglang.launch_server", *flags(options))
    return Command("sglang", _VERSIONS, argv, warnings=tuple(_warnings(settings, pair)))


def _draft_quantization(pair: Pair) -> str | None:
    """By default the draft is taken to be quantised as the target is."""
    if pair.target.quantization is None:
        return None
    return _QUANTIZATIONS.get(pair.draft.quantization or "", "unquant")


def _warnings(settings: Config, pair: Pair) -> list[str]:
    warnings = draft_parallel_warning(settings, "SGLang") + unquantised_warning(settings, pair, "SGLang")
    if pair.vocabularies_differ is None:
        warnings.append(
            "SGLang needs one vocabulary, and releases before April 2026 do not check it; the checkpoints "
            "are not on this machine: run `specbuild check`"
        )
    if settings.kv_cache.dtype == "int8":
        warnings.append("kv_cache.dtype int8 is left out: SGLang has fp8 or the model's own type")
    for source in (pair.target, pair.draft):
        if source.quantization is not None and source.quantization not in _QUANTIZATIONS:
            warnings.append(f"{source.checkpoint} is {source.quantization}: SGLang may not load that format")
    warnings.append(
        "kv_cache.free_gpu_memory_fraction is left out: SGLang's --mem-fraction-static counts weights and "
        "cache together; lower it if memory runs out"
    )
    return warnings
