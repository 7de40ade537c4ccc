# SPDX-License-Identifier: Apache-2.0
"""Findings about sizes: the draft against the target, and both against the settings."""

from __future__ import annotations

from collections.abc import Iterator

from specbuild.checkpoint import ModelConfig, Weights
from specbuild.pairing.finding import Finding, Pair


def draft_size(pair: Pair) -> Iterator[Finding]:
    """A draft that costs too much to pay off."""
    if pair.target.folder and pair.draft.folder and pair.target.folder.samefile(pair.draft.folder):
        yield Finding.of(
            "draft-is-target",
            "pair",
            f"target and draft are the same folder, {pair.target.folder}",
            remedy="Fine to test exactness; for speed take a draft of about a tenth of the target or less.",
        )
        return
    target, draft = (
        _cost(pair.target.config, pair.target.weights),
        _cost(pair.draft.config, pair.draft.weights),
    )
    if target is None or draft is None or draft <= target / 2:
        return
    larger = draft > target
    yield Finding.of(
        "draft-larger-than-target" if larger else "draft-too-large",
        "pair",
        f"per token the draft computes with {draft:,.0f} parameters, the target with {target:,.0f}",
        remedy="Are target and draft swapped?" if larger else "Take a smaller draft; a tenth is usual.",
    )


def _cost(config: ModelConfig | None, weights: Weights | None) -> float | None:
    """Parameters that take part in one token: of a mixture's experts, the share that is chosen.

    None when unknown, as for packed quantised weights.
    """
    if config is None or weights is None or config.quantization:
        return None
    chosen = config.raw.get("num_experts_per_tok")
    share = chosen / config.num_experts if config.num_experts and isinstance(chosen, int) else 1.0
    return sum(
        tensor.elements * (share if ".experts." in name else 1.0) for name, tensor in weights.tensors.items()
    )


def context(pair: Pair) -> Iterator[Finding]:
    """Positions that a model does not know."""
    wanted = pair.settings.limits.max_seq_len
    for subject, model, _ in pair.models():
        known = model.config.context_length if model.config else wanted
        if wanted > known:
            yield Finding.of(
                "context-too-short",
                subject,
                f"limits.max_seq_len is {wanted}, but the {subject} knows {known} positions",
                remedy=f"Set limits.max_seq_len to {known} or less, or take another {subject}.",
            )


def lengths(pair: Pair) -> Iterator[Finding]:
    """Draft length against the sequence limits."""
    limits, draft_length = pair.settings.limits, pair.settings.speculation.draft_length
    room = limits.max_seq_len - limits.max_input_len
    if limits.max_seq_len < draft_length + 2:
        yield Finding.of(
            "max-seq-len-too-small",
            "settings",
            f"a prompt token, {draft_length} draft tokens and the bonus token exceed limits.max_seq_len "
            f"{limits.max_seq_len}",
            remedy="Raise limits.max_seq_len or lower speculation.draft_length.",
        )
    elif room <= draft_length:
        yield Finding.of(
            "draft-length-over-output",
            "settings",
            f"after a prompt of limits.max_input_len {limits.max_input_len}, {room} tokens of output fit, "
            f"but a round drafts {draft_length}",
            remedy="Lower speculation.draft_length or limits.max_input_len, or raise limits.max_seq_len.",
        )


RULES = (draft_size, context, lengths)
