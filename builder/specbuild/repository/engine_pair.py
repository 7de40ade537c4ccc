# SPDX-License-Identifier: Apache-2.0
"""What two engines need in order to speculate together, whoever wrote their models.

Sources: examples/draft_target_model/README.md at 567239f of NVIDIA/TensorRT-LLM, and the loop of NVIDIA's BLS
(tensorrt_llm_bls/1/lib/decode.py), which slices the target's answer by the length of what it sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from specbuild.repository import contracts
from specbuild.repository.engine_facts import EngineFacts
from specbuild.repository.finding import Finding
from specbuild.repository.modelconfig import ModelConfig

_DEFAULT_FRACTION = 0.9
"""kv_cache_free_gpu_mem_fraction where a model does not say."""


@dataclass(frozen=True, slots=True)
class _Pair:
    target: ModelConfig
    draft: ModelConfig
    driver: ModelConfig | None
    """The model that drives both; None when only the names say that they are a pair."""
    facts: Mapping[str, EngineFacts]

    def engines(self) -> Iterator[ModelConfig]:
        yield self.target
        yield self.draft


def check_pair(models: Mapping[str, ModelConfig], facts: Mapping[str, EngineFacts]) -> Iterator[Finding]:
    """Findings about the draft-target pair in ``models``; none when they form no pair."""
    pair = _pair(models, facts)
    if pair is None:
        return
    for rule in (_reuse, _excluded_input, _draft_length, _lengths, _paged_context, _memory):
        yield from rule(pair)


def _pair(models: Mapping[str, ModelConfig], facts: Mapping[str, EngineFacts]) -> _Pair | None:
    for driver in models.values():
        draft = parameter(driver, "tensorrt_llm_draft_model_name")
        target = parameter(driver, "tensorrt_llm_model_name") or "tensorrt_llm"
        if draft in models and target in models:
            return _Pair(models[target], models[draft], driver, facts)
    if "tensorrt_llm" in models and "tensorrt_llm_draft" in models:
        return _Pair(models["tensorrt_llm"], models["tensorrt_llm_draft"], None, facts)
    return None


def parameter(message: ModelConfig, key: str) -> str:
    """The parameter's text as the backend sees it: empty when absent or a placeholder never filled in."""
    value: str = message.parameters[key].string_value if key in message.parameters else ""
    return "" if value.startswith("${") else value


def _reuse(pair: _Pair) -> Iterator[Finding]:
    for message in pair.engines():
        value = parameter(message, "enable_kv_cache_reuse")
        if not _true(value):
            said = f"is {value}" if value else "is not set, and older backends take that for false"
            yield Finding(
                "engine-kv-reuse-off",
                message.name,
                f"enable_kv_cache_reuse {said}: every round computes the whole text again",
                "Set enable_kv_cache_reuse to true on both engines.",
            )


def _excluded_input(pair: _Pair) -> Iterator[Finding]:
    for message in pair.engines():
        if _true(parameter(message, "exclude_input_in_output")):
            yield Finding(
                "engine-input-excluded",
                message.name,
                "exclude_input_in_output is true: NVIDIA's BLS loop cuts the answer at the wrong place",
                "Set exclude_input_in_output to false on both engines; an older README had it wrong.",
            )


def _draft_length(pair: _Pair) -> Iterator[Finding]:
    target, draft = (pair.facts.get(message.name) for message in pair.engines())
    if target is not None and not target.verifies_drafts:
        yield Finding(
            "engine-verifies-nothing",
            pair.target.name,
            f"the engine was built with speculative_decoding_mode {target.speculative_decoding_mode} and "
            f"max_draft_len {target.max_draft_len}: it refuses draft tokens",
            "Build it with --speculative_decoding_mode draft_tokens_external --max_draft_len N.",
        )
    if draft is not None and draft.verifies_drafts:
        yield Finding(
            "engine-draft-verifies",
            pair.draft.name,
            "the draft engine was built to verify draft tokens",
            "Build the draft without --speculative_decoding_mode; are the two engines swapped?",
        )
    wanted = parameter(pair.driver, "max_draft_len") if pair.driver is not None else ""
    if target is not None and wanted.isdecimal() and int(wanted) > target.max_draft_len:
        yield Finding(
            "engine-limit-exceeded",
            pair.driver.name if pair.driver is not None else pair.target.name,
            f"max_draft_len is {wanted}, but the target engine takes {target.max_draft_len}",
            "Lower max_draft_len, or build the target again.",
        )


def _lengths(pair: _Pair) -> Iterator[Finding]:
    target, draft = (pair.facts.get(message.name) for message in pair.engines())
    for message in pair.engines():
        engine = pair.facts.get(message.name)
        if engine is not None and engine.max_input_len < engine.max_seq_len - engine.max_draft_len - 1:
            yield Finding(
                "engine-input-short",
                message.name,
                f"max_input_len {engine.max_input_len} is less than max_seq_len {engine.max_seq_len}: each "
                "round sends prompt and text so far, and fails once they are longer",
                "Build the engine with max_input_len near max_seq_len.",
            )
    if target is None or draft is None:
        return
    usable = {"target": target.max_seq_len - target.max_draft_len, "draft": draft.max_seq_len}
    sizes = {"sequence length": usable, "batch size": _both(target.max_batch_size, draft.max_batch_size)}
    for name, built in sizes.items():
        if built["draft"] < built["target"]:
            yield Finding(
                "engine-limits-differ",
                pair.draft.name,
                f"the draft engine's {name} is {built['draft']}, the target's {built['target']}",
                "Build both engines with the same limits.",
            )


def _both(target: int, draft: int) -> dict[str, int]:
    return {"target": target, "draft": draft}


def _paged_context(pair: _Pair) -> Iterator[Finding]:
    for message in pair.engines():
        engine = pair.facts.get(message.name)
        if engine is not None and not engine.paged_context:
            yield Finding(
                "engine-no-paged-context",
                message.name,
                "the engine was built without paged context FMHA, so it cannot reuse its KV cache",
                "Build it with --use_paged_context_fmha enable.",
            )


def _memory(pair: _Pair) -> Iterator[Finding]:
    """Two fractions of the same memory; a number of tokens on both makes them harmless."""
    gpus = [_gpus(message) for message in pair.engines()]
    if all(gpus) and gpus[0].isdisjoint(gpus[1]):
        return
    if all(parameter(message, "max_tokens_in_paged_kv_cache") for message in pair.engines()):
        return
    fractions = [_fraction(message) for message in pair.engines()]
    if sum(fractions) > 1:
        yield Finding(
            "engine-memory-overcommitted",
            pair.target.name,
            f"target and draft share a GPU and take {fractions[0]} and {fractions[1]} of its free memory",
            "Split one budget by bytes per token, or set max_tokens_in_paged_kv_cache on both.",
        )


def _gpus(message: ModelConfig) -> set[str]:
    value = parameter(message, "gpu_device_ids")
    return set(value.replace(";", ",").split(",")) if value else set()


def _fraction(message: ModelConfig) -> float:
    try:
        return float(parameter(message, "kv_cache_free_gpu_mem_fraction") or _DEFAULT_FRACTION)
    except ValueError:
        return _DEFAULT_FRACTION


def _true(value: str) -> bool:
    try:
        return bool(value) and contracts.boolean(value)
    except ValueError:
        return False
