# SPDX-License-Identifier: Apache-2.0
"""Replay of recorded traffic: JSON Lines with the arrival and the size of each request.

``{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, ...]}`` is the format
of the Mooncake traces (github.com/kvcache-ai/Mooncake): milliseconds, and ids of 512-token blocks, equal
where two requests share a beginning. The text is cut from real text; equal blocks get equal text, so a KV
cache finds what it would have found. A line may bring its own ``prompt`` or ``messages`` instead.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from specclient.bench.workload import shaping
from specclient.bench.workload.errors import WorkloadError
from specclient.bench.workload.files import (
    TEXT_KEYS,
    objects,
    output_tokens_of,
    positive,
    prompt_of,
    read_text,
)
from specclient.bench.workload.prompt import Prompt, Workload
from specclient.bench.workload.tokenizer import TextTokenizer

BLOCK_TOKENS = 512
"""Tokens that one of Mooncake's hash ids stands for."""

Unit = Literal["ms", "s"]


def from_trace(
    path: Path,
    *,
    unit: Unit,
    texts: Workload,
    tokenizer: TextTokenizer | None,
    generator: random.Random,
    count: int | None = None,
) -> Workload:
    """The first ``count`` requests of ``path`` (all unless given) in order of arrival; the first is at 0 s.

    ``texts`` is what prompts are cut from; lines with lengths only need the ``tokenizer``. Raises
    WorkloadError, which names the line.
    """
    entries = [
        (_arrival(place, entry, unit), place, entry) for place, entry in objects(path, read_text(path))
    ]
    if not entries:
        raise WorkloadError(f"{path} has no requests", remedy="Give a trace with at least one.")
    entries.sort(key=lambda entry: entry[0])
    writer = _Writer(texts, tokenizer, generator)
    start = entries[0][0]
    prompts = tuple(
        replace(writer.prompt(place, entry, f"{path.stem}-{number}"), arrival_s=arrival - start)
        for number, (arrival, place, entry) in enumerate(entries[:count], 1)
    )
    return Workload(path.name, texts.licence if writer.used_texts else "unknown", prompts)


def _arrival(place: str, entry: Mapping[str, Any], unit: Unit) -> float:
    value = entry.get("timestamp")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WorkloadError(
            f"{place}: timestamp is {value!r}", remedy="Give each request its arrival as a number."
        )
    return value / 1e3 if unit == "ms" else float(value)


class _Writer:
    """Gives each line its prompt."""

    def __init__(self, texts: Workload, tokenizer: TextTokenizer | None, generator: random.Random) -> None:
        self._texts = [prompt.text for prompt in texts.prompts]
        self._tokenizer = tokenizer
        self._generator = generator
        self._blocks: dict[int, str] = {}
        self.used_texts = False

    def prompt(self, place: str, entry: Mapping[str, Any], name: str) -> Prompt:
        if "messages" in entry or any(key in entry for key in TEXT_KEYS):
            return prompt_of(place, {"kind": "trace", **entry}, default_id=name)
        if "input_length" not in entry:
            raise WorkloadError(
                f"{place} has neither a prompt nor an input_length", remedy="Give either in every line."
            )
        if self._tokenizer is None:
            raise WorkloadError(
                f"{place} has a length, which needs a tokenizer to be met",
                remedy="Add --tokenizer with the target's folder.",
            )
        self.used_texts = True
        length = positive(place, "input_length", entry["input_length"])
        filler = shaping.endless(self._texts, self._generator)
        if ids := _hash_ids(place, entry):
            start = "".join(self._block(block, self._tokenizer) for block in ids)
            text, tokens = self._tokenizer.fit_start(start, length, filler)
        else:
            text, tokens = self._tokenizer.fit("", length, filler)
        return Prompt(name, "trace", text, output_tokens=output_tokens_of(place, entry), input_tokens=tokens)

    def _block(self, block: int, tokenizer: TextTokenizer) -> str:
        """The text of a hash id: equal for equal ids, and from its heading on unlike any other."""
        if block not in self._blocks:
            filler = shaping.endless(self._texts, random.Random(block))
            self._blocks[block], _ = tokenizer.fit_start(f"\n\nSection {block}\n", BLOCK_TOKENS, filler)
        return self._blocks[block]


def _hash_ids(place: str, entry: Mapping[str, Any]) -> list[int]:
    ids = entry.get("hash_ids") or []
    if not isinstance(ids, list) or not all(type(block) is int for block in ids):
        raise WorkloadError(f"{place}: hash_ids is no list of integers", remedy="Correct or remove it.")
    return ids
