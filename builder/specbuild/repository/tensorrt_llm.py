# SPDX-License-Identifier: Apache-2.0
"""The repository of the tensorrt_llm runtime: two engines, and the model that drives them.

``speculative`` calls ``tensorrt_llm_draft`` and ``tensorrt_llm``; ``ensemble_baseline`` has the target alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specbuild import artifacts
from specbuild.config import Config
from specbuild.engines import gpus
from specbuild.errors import RepositoryError
from specbuild.repository import front, kv_budget, placement
from specbuild.repository.engine_facts import EngineFacts
from specbuild.repository.kv_budget import KvShare
from specbuild.repository.modelconfig import ModelConfig, set_parameters
from specbuild.repository.placement import ENGINE_MODELS, Placement, Role

GENERATOR = "speculative"
MODELS = (
    "ensemble",
    "ensemble_baseline",
    "preprocessing",
    GENERATOR,
    *ENGINE_MODELS.values(),
    "postprocessing",
)
_REBUILD = "Build the engines for this configuration: `specbuild engines --config FILE`."


def engines(settings: Config) -> tuple[Path, ...]:
    """The folders that the models read when they are loaded."""
    return tuple(settings.engines_dir / role for role in ENGINE_MODELS)


def files(settings: Config) -> Mapping[str, Path]:
    """Files besides the models' own: none, the engines stay where they are."""
    return {}


def configure(models: Mapping[str, ModelConfig], settings: Config) -> None:
    """Set in the base messages what depends on the deployment. Paths become absolute.

    Raises RepositoryError when the engines are not those of ``settings`` or do not fit the GPUs, and
    ConfigError when they cannot be placed as it says.
    """
    facts = {role: EngineFacts.read(settings.engines_dir / role) for role in ENGINE_MODELS}
    _require_match(facts, settings)
    where = placement.place(settings)
    shares = kv_budget.split(
        facts,
        where,
        fraction=settings.kv_cache.free_gpu_memory_fraction,
        gpu_memory_bytes=_gpu_memory(settings),
    )
    tokenizer = (settings.engines_dir / "target" / "tokenizer").absolute()
    for name in ("preprocessing", "postprocessing", *ENGINE_MODELS.values()):
        set_parameters(models[name], {"tokenizer_dir": tokenizer})
    # The engines themselves take longer inputs, since each round sends the whole text again.
    set_parameters(models["preprocessing"], {"max_input_len": settings.limits.max_input_len})
    for role, name in ENGINE_MODELS.items():
        _set_limits(models[name], settings)
        _set_or_leave_out(
            models[name], _of_engine(facts[role]) | _of_place(where, role) | _of_share(shares[role])
        )
        set_parameters(models[name], {"enable_kv_cache_reuse": settings.kv_cache.reuse})
    front.generate_with(models, GENERATOR)
    models["ensemble_baseline"].max_batch_size = settings.limits.max_batch_size
    set_parameters(models[GENERATOR], _of_loop(settings, facts["target"], where))


def _of_loop(settings: Config, target: EngineFacts, where: Placement) -> dict[str, Any]:
    return {
        "tensorrt_llm_model_name": ENGINE_MODELS["target"],
        "tensorrt_llm_draft_model_name": ENGINE_MODELS["draft"],
        "max_draft_len": settings.speculation.draft_length,
        "adaptive": settings.speculation.adaptive,
        "acceptance": settings.speculation.acceptance,
        "fast_logits": where.fast_logits,
        "vocab_size": target.vocab_size,
        "max_seq_len": settings.limits.max_seq_len,
        "max_batch_size": settings.limits.max_batch_size,
        "max_queue_size": settings.serving.max_queue_size,
    }


def _set_limits(message: ModelConfig, settings: Config) -> None:
    batch, queue = settings.limits.max_batch_size, settings.serving.max_queue_size
    message.max_batch_size = batch
    del message.dynamic_batching.preferred_batch_size[:]
    message.dynamic_batching.preferred_batch_size.append(batch)
    # Rounds of running requests queue here too, one at a time for each; only new requests may be refused.
    message.dynamic_batching.default_queue_policy.max_queue_size = queue + batch


def _of_engine(engine: EngineFacts) -> dict[str, Any]:
    return {
        "gpt_model_path": engine.folder.absolute(),
        "enable_chunked_context": engine.max_num_tokens < engine.max_seq_len,
    }


def _of_place(where: Placement, role: Role) -> dict[str, Any]:
    return {
        "gpu_device_ids": _list(where.gpus[role]),
        "participant_ids": _list(where.ranks.get(role, ())),
        "speculative_decoding_fast_logits": where.fast_logits or None,
    }


def _of_share(share: KvShare) -> dict[str, Any]:
    return {
        "kv_cache_free_gpu_mem_fraction": share.fraction,
        "max_tokens_in_paged_kv_cache": share.tokens,
    }


def _set_or_leave_out(message: ModelConfig, values: Mapping[str, Any]) -> None:
    """A parameter without a value is removed: the backend warns about an empty one, and may misread it."""
    set_parameters(message, values)
    for key, value in values.items():
        if value is None:
            del message.parameters[key]


def _list(numbers: tuple[int, ...]) -> str | None:
    return ",".join(map(str, numbers)) or None


def _require_match(facts: Mapping[Role, EngineFacts], settings: Config) -> None:
    """The engines were built for what ``settings`` promise."""
    limits, wanted = settings.limits, settings.speculation.draft_length
    target = facts["target"]
    if not target.verifies_drafts or target.max_draft_len < wanted:
        raise RepositoryError(
            f"the target engine takes {target.max_draft_len if target.verifies_drafts else 0} draft tokens, "
            f"but speculation.draft_length is {wanted}",
            remedy=_REBUILD,
        )
    models = {"target": settings.target, "draft": settings.draft}
    for role, engine in facts.items():
        options = models[role]
        promised = {
            "tp_size": (engine.tp_size, options.tp_size),
            "pp_size": (engine.pp_size, options.pp_size),
            "max_batch_size": (engine.max_batch_size, limits.max_batch_size),
            "max_seq_len": (engine.max_seq_len - engine.max_draft_len, limits.max_seq_len),
        }
        for name, (built, configured) in promised.items():
            if built != configured:
                raise RepositoryError(
                    f"the {role} engine was built with {name} {built}, the configuration says {configured}",
                    remedy=_REBUILD,
                )


def _gpu_memory(settings: Config) -> int | None:
    """Memory of the smallest GPU, here or else where the engines were built; None if unknown."""
    here = [gpu.memory_bytes for gpu in gpus.detect()]
    if here:
        return min(here)
    manifest = artifacts.read_manifest(settings.engines_dir / "target")
    recorded = manifest.facts.get("gpus", []) if manifest else []
    return min((gpu["memory_bytes"] for gpu in recorded if "memory_bytes" in gpu), default=None)
