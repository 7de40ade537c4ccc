# SPDX-License-Identifier: Apache-2.0
"""Findings about the tokens: does an id mean the same to both models?

The rules follow llama.cpp's ``common_speculative_are_compatible`` (equal text per id, begin and end
tokens), with two differences: padding rows of the embedding are compared with what the tokenizers define
instead of with a fixed tolerance, and differing control tokens are a warning, because an id that the
draft misreads lowers the acceptance and never changes the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specbuild.checkpoint import ModelConfig, Tokenizer
from specbuild.pairing.finding import Finding, Pair

_SHOWN = 4
_SAME_FAMILY = "Pair models that share one tokenizer; usually the sizes of one model family do."


def sizes(pair: Pair) -> Iterator[Finding]:
    """Rows of the two embeddings, with padding told from tokens."""
    target, draft = pair.target.config, pair.draft.config
    if target is None or draft is None or target.vocab_size == draft.vocab_size:
        return
    common = min(target.vocab_size, draft.vocab_size)
    counts = f"the target has {target.vocab_size} rows, the draft {draft.vocab_size}"
    beyond = _ids_beyond(pair, common)
    if beyond:
        ids, more = ", ".join(map(str, beyond[:_SHOWN])), ", ..." if len(beyond) > _SHOWN else ""
        yield Finding.of(
            "vocab-size-differs",
            "pair",
            f"{counts}, and {len(beyond)} ids that only one of them has a row for are tokens: {ids}{more}",
            remedy=_SAME_FAMILY,
        )
    elif pair.target.tokenizer and pair.draft.tokenizer:
        yield Finding.of(
            "vocab-padding-differs",
            "pair",
            f"{counts}; no tokenizer defines an id from {common} on, so these rows are padding",
            remedy="None needed: ids in the padding are never generated.",
        )


def _ids_beyond(pair: Pair, common: int) -> list[int]:
    """Ids from ``common`` on that a tokenizer defines and its own model has a row for."""
    found: set[int] = set()
    for _, model, _ in pair.models():
        if model.tokenizer and model.config:
            found |= {index for index in model.tokenizer.tokens if common <= index < model.config.vocab_size}
    return sorted(found)


def texts(pair: Pair) -> Iterator[Finding]:
    """Ids that stand for different text, ordinary tokens apart from added ones."""
    target, draft = pair.target.tokenizer, pair.draft.tokenizer
    if target is None or draft is None:
        return
    limit = min((m.config.vocab_size for _, m, _ in pair.models() if m.config), default=None)
    differing = [
        index
        for index in sorted(target.tokens.keys() | draft.tokens.keys())
        if target.tokens.get(index) != draft.tokens.get(index) and (limit is None or index < limit)
    ]
    special = [index for index in differing if index in target.added or index in draft.added]
    ordinary = sorted(set(differing) - set(special))
    if ordinary:
        yield Finding.of(
            "token-text-differs", "pair", _contrast(ordinary, target, draft), remedy=_SAME_FAMILY
        )
    if special:
        yield Finding.of(
            "special-tokens-differ",
            "pair",
            f"added tokens: {_contrast(special, target, draft)}",
            remedy="None needed if prompts seldom hold them; else take a draft of the target's own version.",
        )


def _contrast(ids: Sequence[int], target: Tokenizer, draft: Tokenizer) -> str:
    def show(tokens: Tokenizer, index: int) -> str:
        text = tokens.tokens.get(index)
        return "nothing" if text is None else repr(text[:40])

    listed = "; ".join(f"{i} is {show(target, i)} / {show(draft, i)}" for i in ids[:_SHOWN])
    more = "; ..." if len(ids) > _SHOWN else ""
    count = "1 id differs" if len(ids) == 1 else f"{len(ids)} ids differ"
    return f"{count} (target / draft): {listed}{more}"


def segmentation(pair: Pair) -> Iterator[Finding]:
    """Parts of the tokenizers that cut text differently."""
    target, draft = pair.target.tokenizer, pair.draft.tokenizer
    if target is None or draft is None:
        return
    differing = [part for part, fingerprint in target.rules.items() if draft.rules.get(part) != fingerprint]
    if differing:
        yield Finding.of(
            "tokenizer-rules-differ",
            "pair",
            f"the tokenizers differ in {', '.join(differing)}: the draft knows other sequences of tokens",
            remedy="Expect a lower acceptance, or take a draft with the target's tokenizer.",
        )


def ends(pair: Pair) -> Iterator[Finding]:
    """Begin and end tokens."""
    target, draft = pair.target.config, pair.draft.config
    if target is not None and not any(0 <= index < target.vocab_size for index in target.eos_ids):
        yield Finding.of(
            "eos-missing",
            "target",
            f"config.json and generation_config.json name no end token below {target.vocab_size}",
            remedy="Add eos_token_id to the target's generation_config.json.",
        )
    if target is not None and draft is not None:
        yield from _different_ends(target, draft)


def _different_ends(target: ModelConfig, draft: ModelConfig) -> Iterator[Finding]:
    if target.bos_id != draft.bos_id:
        yield Finding.of(
            "bos-differs",
            "pair",
            f"the target begins with {_id(target.bos_id)}, the draft with {_id(draft.bos_id)}",
            remedy="Expect a lower acceptance; a draft of the same family begins like the target.",
        )
    if set(target.eos_ids) != set(draft.eos_ids):
        yield Finding.of(
            "eos-differs",
            "pair",
            f"the target ends with {_ids(target.eos_ids)}, the draft with {_ids(draft.eos_ids)}",
            remedy="Pair an instruction-tuned target with an instruction-tuned draft.",
        )


def chat_templates(pair: Pair) -> Iterator[Finding]:
    """Chat templates: only the target's is applied."""
    if pair.target.tokenizer is None or pair.draft.tokenizer is None:
        return
    target, draft = pair.target.chat_template, pair.draft.chat_template
    if target == draft:
        return
    if target is not None and draft is not None:
        yield Finding.of(
            "chat-template-differs",
            "pair",
            "the chat templates differ",
            remedy="None needed; if the draft was trained on another dialogue format, it is accepted less.",
        )
    else:
        with_template, without = ("target", "draft") if target is not None else ("draft", "target")
        yield Finding.of(
            "chat-template-one-sided",
            "pair",
            f"the {with_template} has a chat template, the {without} has none",
            remedy="For chat, take the instruction-tuned version of both models.",
        )


def unembedded(pair: Pair) -> Iterator[Finding]:
    """Tokens whose id lies behind the model's own embedding."""
    for subject, model, _ in pair.models():
        if model.tokenizer is None or model.config is None:
            continue
        beyond = sorted(index for index in model.tokenizer.tokens if index >= model.config.vocab_size)
        if beyond:
            listed = ", ".join(f"{index} {model.tokenizer.tokens[index][:40]!r}" for index in beyond[:_SHOWN])
            yield Finding.of(
                "token-without-row",
                subject,
                f"{len(beyond)} tokens lie beyond the {model.config.vocab_size} rows: {listed}",
                remedy="Prompts that hold them are refused; resize the embedding if they are needed.",
            )


def _id(index: int | None) -> str:
    return "no token" if index is None else str(index)


def _ids(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices)) or "no token"


RULES = (sizes, texts, segmentation, ends, chat_templates, unembedded)
