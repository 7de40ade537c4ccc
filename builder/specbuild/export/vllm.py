# SPDX-License-Identifier: Apache-2.0
"""vLLM: ``vllm serve`` with ``--speculative-config``.

Sources in vllm-project/vllm: vllm/config/speculative.py at 002e77c1 (keys; equal vocabulary sizes; the
draft's tensor parallelism), docs/features/speculative_decoding/draft_model.md at 04329df5. Pull request
24322 brought draft models to the V1 engine in January 2026; 0.13.0 still refuses them (issue 31883).
"""

from __future__ import annotations

import json

from specbuild.config import Config
from specbuild.export.command import Command, Pair, draft_parallel_warning, flags, unquantised_warning

_VERSIONS = "releases with draft models in the V1 engine (after 0.13); measured with 0.25.1"


def command(settings: Config, pair: Pair) -> Command:
    """``vllm serve`` for the pair. Greedy drafts, exact verification: the target's distribution is kept."""
    target, limits, cache = settings.target, settings.limits, settings.kv_cache
    options = {
        "host": settings.serving.host,
        "port": settings.serving.http_port,
        "revision": pair.target.revision,
        "dtype": target.dtype,
        "trust-remote-code": target.trust_remote_code,
        "tensor-parallel-size": target.tp_size,
        "pipeline-parallel-size": target.pp_size if target.pp_size > 1 else None,
        "max-model-len": limits.max_seq_len,
        "max-num-seqs": limits.max_batch_size,
        "kv-cache-dtype": "fp8" if cache.dtype == "fp8" else None,
        "no-enable-prefix-caching": not cache.reuse,
        "speculative-config": json.dumps(_speculation(settings, pair)),
    }
    argv = ("vllm", "serve", pair.target.checkpoint, *flags(options))
    return Command("vllm", _VERSIONS, argv, warnings=tuple(_warnings(settings, pair)))


def _speculation(settings: Config, pair: Pair) -> dict[str, object]:
    section: dict[str, object] = {
        "method": "draft_model",
        "model": pair.draft.checkpoint,
        "num_speculative_tokens": settings.speculation.draft_length,
    }
    if pair.draft.revision is not None:
        section["revision"] = pair.draft.revision
    if settings.speculation.acceptance == "logits":
        section["draft_sample_method"] = "probabilistic"
    if pair.vocabularies_differ:
        # It intersects the vocabularies token by token, and needs greedy drafts.
        section["use_heterogeneous_vocab"] = True
        section.pop("draft_sample_method", None)
    return section


def _warnings(settings: Config, pair: Pair) -> list[str]:
    warnings = draft_parallel_warning(settings, "vLLM") + unquantised_warning(settings, pair, "vLLM")
    if pair.vocabularies_differ is None:
        warnings.append(
            "vLLM refuses a pair whose config.json differ in vocab_size unless use_heterogeneous_vocab is "
            "set; the checkpoints are not on this machine, so that was not checked"
        )
    elif pair.vocabularies_differ:
        warnings.append(
            f"the vocabularies have {pair.target.vocab_size} and {pair.draft.vocab_size} rows: "
            "use_heterogeneous_vocab is set, which drafts greedily and needs a release that has it"
        )
    if settings.target.pp_size > 1:
        warnings.append("vLLM documented speculation as incompatible with pipeline parallelism")
    if settings.kv_cache.dtype == "int8":
        warnings.append("kv_cache.dtype int8 is left out: vLLM has fp8 or the model's own type")
    warnings.append(
        "kv_cache.free_gpu_memory_fraction is left out: vLLM's --gpu-memory-utilization (0.9) counts the "
        "whole GPU, weights included"
    )
    return warnings
