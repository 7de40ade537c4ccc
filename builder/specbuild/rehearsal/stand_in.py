# SPDX-License-Identifier: Apache-2.0
"""Engine folders without engines: what ``specbuild engines`` would leave, less what only a GPU can read.

They hold the config.json that trtllm-build would write for the same plan, and the tokenizer. With them the
repository can be written, so that a rehearsal needs no GPU time before it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from specbuild import artifacts
from specbuild.checkpoint import Checkpoint
from specbuild.config import Config
from specbuild.engines import steps
from specbuild.engines.plan import Expected
from specbuild.engines.steps import Source, Toolchain
from specbuild.pairing.finding import ModelName

_FORMAT = 1
_TOOLS = Toolchain(python="python3", trtllm_build="trtllm-build", examples=PurePosixPath("/examples"))


def write(settings: Config, checkpoints: Mapping[ModelName, Checkpoint]) -> None:
    """``settings.engines_dir`` holds ``target/`` and ``draft/`` as described above."""
    sources = {role: _source(checkpoint) for role, checkpoint in checkpoints.items()}
    expected = steps.plan(settings, sources, _TOOLS, None).expected
    logits = settings.speculation.acceptance == "logits"
    for role, checkpoint in checkpoints.items():
        document = engine_config(checkpoint, expected[role], logits=logits)
        final = settings.engines_dir / role
        key = artifacts.content_key({"stand-in": _FORMAT, "config": document})
        with artifacts.lock(final):
            if artifacts.is_current(final, key):
                continue
            facts = {"stand-in": True, "checkpoint": str(checkpoint.folder)}
            with artifacts.publish(final, key=key, facts=facts) as staging:
                (staging / "config.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
                _copy_tokenizer(checkpoint, staging / "tokenizer")


def engine_config(checkpoint: Checkpoint, expected: Expected, *, logits: bool) -> dict[str, Any]:
    """An engine's config.json (tensorrt_llm/builder.py at 008b2b8d, ``EngineConfig.to_dict``).

    ``logits`` says whether it was built to return them.
    """
    model = checkpoint.config
    return {
        "version": expected.version,
        "pretrained_config": {
            "architecture": model.architecture,
            "dtype": expected.dtype,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "num_key_value_heads": model.num_kv_heads,
            "head_size": model.head_dim,
            "hidden_size": model.hidden_size,
            "intermediate_size": model.intermediate_size,
            "vocab_size": expected.vocab_size,
            "mapping": {"tp_size": expected.tp_size, "pp_size": expected.pp_size},
            "quantization": {
                "quant_algo": expected.quant_algo,
                "kv_cache_quant_algo": expected.kv_cache_quant_algo,
            },
        },
        "build_config": {
            "max_batch_size": expected.max_batch_size,
            "max_input_len": expected.max_input_len,
            "max_seq_len": expected.max_seq_len,
            "max_num_tokens": expected.max_num_tokens,
            "max_beam_width": 1,
            "max_draft_len": expected.max_draft_len,
            "speculative_decoding_mode": expected.speculative_decoding_mode,
            "kv_cache_type": "PAGED",
            "gather_context_logits": False,
            "gather_generation_logits": logits,
            "plugin_config": {
                "use_paged_context_fmha": True,
                "tokens_per_block": expected.tokens_per_block,
            },
        },
    }


def _source(checkpoint: Checkpoint) -> Source:
    return Source(
        folder=checkpoint.folder.absolute(),
        model_type=checkpoint.config.model_type,
        dtype=checkpoint.dtype,
        vocab_size=checkpoint.config.vocab_size,
        hidden_size=checkpoint.config.hidden_size,
        parameters=checkpoint.weights.parameters,
        digest="",
    )


def _copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    for name in set(checkpoint.files) - set(checkpoint.weights.files):
        if not name.endswith(".safetensors.index.json"):
            shutil.copyfile(checkpoint.folder / name, folder / name)
