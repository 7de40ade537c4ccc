# SPDX-License-Identifier: Apache-2.0
"""What a request may ask for, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from specclient.errors import InvalidRequest

INT32_MAX = 2**31 - 1
FLOAT32_MAX = 3.4028235e38


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """Parameters of one request; what is None is left to the server. Raises InvalidRequest."""

    max_tokens: int = 128
    """Most tokens to generate."""
    min_tokens: int | None = None
    """Tokens before which no end token is generated."""
    temperature: float | None = None
    """0 is greedy, and so is None together with ``top_k`` and ``top_p`` None (TensorRT-LLM's rule)."""
    top_k: int | None = None
    """Sample among this many tokens; 0 is all, 1 is greedy."""
    top_p: float | None = None
    """Sample among the likeliest tokens that hold this much probability."""
    seed: int | None = None
    """Makes sampling repeatable; 0 is a seed like any other."""
    stop: tuple[str, ...] = ()
    """Generation ends with any of these texts."""
    bad_words: tuple[str, ...] = ()
    """Texts that are never generated."""
    repetition_penalty: float | None = None
    """Multiplicative penalty on tokens that have occurred; 1 is none."""
    presence_penalty: float | None = None
    """Subtracted once from tokens that have been generated; 0 is none."""
    frequency_penalty: float | None = None
    """Subtracted for each time a token has been generated; 0 is none."""
    length_penalty: float | None = None
    """Exponent of the length that beam search divides by; 1 is none."""
    num_draft_tokens: int | None = None
    """Draft tokens per round; 0 turns speculation off, None is the deployment's draft length.

    NVIDIA's `tensorrt_llm_bls` does not speculate unless this is given, and then answers in one piece."""
    end_id: int | None = None
    """The end token, in place of the model's."""
    pad_id: int | None = None
    """The padding token, in place of the model's."""
    return_log_probs: bool = False
    """Deliver each token's log-probability."""
    embedding_bias: tuple[tuple[str, float], ...] = ()
    """(text, what is added to the logits of its tokens); a mapping will do.

    This and what follows: for NVIDIA's own models only."""
    guided_decoding_guide_type: str | None = None
    """json, json_schema, regex, ebnf_grammar or structural_tag."""
    guided_decoding_guide: str | None = None
    """The schema, expression or grammar that the answer must follow."""
    lora_task_id: int | None = None
    """A LoRA adapter that the server has loaded."""
    use_draft_logits: bool | None = None
    """Accept drafts by comparing distributions instead of tokens (`tensorrt_llm_bls`)."""

    def __post_init__(self) -> None:
        for name in ("stop", "bad_words"):
            # A text is itself a sequence of texts: "stop" would become s, t, o, p.
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "embedding_bias", tuple(dict(self.embedding_bias).items()))
        self._check_integers()
        self._check_reals()
        for name in ("stop", "bad_words"):
            for word in getattr(self, name):
                checked_text(word, name)
        for word, bias in self.embedding_bias:
            checked_text(word, "embedding_bias")
            _check_real("embedding_bias", bias, -FLOAT32_MAX, FLOAT32_MAX)
        for name in ("guided_decoding_guide_type", "guided_decoding_guide"):
            if getattr(self, name) is not None:
                checked_text(getattr(self, name), name)

    def _check_integers(self) -> None:
        for name, low, high in (
            ("max_tokens", 1, INT32_MAX),
            ("min_tokens", 0, self.max_tokens),
            ("top_k", 0, INT32_MAX),
            ("seed", 0, 2**64 - 1),
            ("num_draft_tokens", 0, INT32_MAX),
            ("end_id", 0, INT32_MAX),
            ("pad_id", 0, INT32_MAX),
            ("lora_task_id", 0, 2**64 - 1),
        ):
            value = getattr(self, name)
            if value is None and name != "max_tokens":
                continue
            if type(value) is not int or not low <= value <= high:
                raise InvalidRequest(f"{name} is {value!r}", remedy=f"Use an integer from {low} to {high}.")

    def _check_reals(self) -> None:
        for name, low, high, open_low in (
            ("temperature", 0.0, FLOAT32_MAX, False),
            ("top_p", 0.0, 1.0, True),
            ("repetition_penalty", 0.0, FLOAT32_MAX, True),
            ("presence_penalty", -FLOAT32_MAX, FLOAT32_MAX, False),
            ("frequency_penalty", -FLOAT32_MAX, FLOAT32_MAX, False),
            ("length_penalty", -FLOAT32_MAX, FLOAT32_MAX, False),
        ):
            if getattr(self, name) is not None:
                _check_real(name, getattr(self, name), low, high, open_low=open_low)


def _check_real(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    fits = type(value) in (int, float) and math.isfinite(value) and low <= value <= high
    if not fits or (open_low and value == low):
        interval = f"{'above' if open_low else 'from'} {low:g} to {high:g}"
        raise InvalidRequest(f"{name} is {value!r}", remedy=f"Use a number {interval}.")


def parameters_from(
    parameters: GenerationParameters | None, fields: Mapping[str, Any]
) -> GenerationParameters:
    """``parameters`` with ``fields`` over them. Raises InvalidRequest, and TypeError for an unknown field."""
    return replace(parameters or GenerationParameters(), **fields)


def checked_text(text: str, name: str) -> bytes:
    """``text`` as UTF-8. Raises InvalidRequest when it is empty or has no such form."""
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f"{name} is empty or no text", remedy="Send at least one character.")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name} is not valid Unicode: a lone surrogate at character {error.start}",
            remedy="Decode the text as UTF-8 where it is read, with errors='strict' or 'replace'.",
        ) from None
