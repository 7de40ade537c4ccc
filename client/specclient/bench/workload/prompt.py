# SPDX-License-Identifier: Apache-2.0
"""A prompt, and a set of them with its identity.

Random tokens are no substitute for text: a draft guesses them worse, or their repetitive continuations
better, than what users send (SPEED-Bench, arXiv 2604.09557, found throughput overstated by about 23 %).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RANDOM_TOKENS_WARNING = (
    "The prompts are random tokens, which distort acceptance: throughput with speculation was found "
    "overstated by about 23 % (SPEED-Bench, arXiv 2604.09557). Measure with real text before deciding."
)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request of a workload. ``kind`` is code, chat, summarise or structured in the bundled set."""

    id: str
    kind: str
    text: str
    """The prompt as text; with ``messages`` their contents, for what cannot send a conversation."""
    messages: tuple[Message, ...] = ()
    """Sent through the model's chat template, in place of ``text``, unless empty."""
    output_tokens: int | None = None
    """Tokens to generate; None leaves it to the run's ``max_tokens``."""
    arrival_s: float | None = None
    """When a replayed request is due, in seconds from the start of the run."""
    input_tokens: int | None = None
    """Tokens of ``text`` where a tokenizer has counted them."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A named set of prompts. Those of a trace have arrival times and stay in order."""

    name: str
    licence: str
    """SPDX identifier, or "unknown" for a file of the user."""
    prompts: tuple[Prompt, ...]
    warnings: tuple[str, ...] = ()
    """What a reader of the report must know about these prompts."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """How the prompts were made from their source: tokenizer, lengths, seed. JSON types."""

    @property
    def sha256(self) -> str:
        """Identifies the set: equal for equal prompts in equal order."""
        facts = [
            {name: value for name, value in asdict(prompt).items() if value not in (None, ())}
            for prompt in self.prompts
        ]
        text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def replayed(self) -> bool:
        """Whether every prompt has its own arrival time."""
        return all(prompt.arrival_s is not None for prompt in self.prompts)

    def draw(self, count: int, seed: int) -> list[Prompt]:
        """``count`` prompts in an order fixed by ``seed``; each once before any comes again.

        A replayed trace keeps its order and gives at most what it has: to start over would make up arrivals.
        """
        if self.replayed:
            return list(self.prompts[:count])
        generator = random.Random(seed)
        drawn: list[Prompt] = []
        while len(drawn) < count:
            drawn += generator.sample(self.prompts, len(self.prompts))
        return drawn[:count]

    def facts(self) -> dict[str, Any]:
        """What a report says about the workload, as JSON types; no prompt is in it."""
        return {
            "name": self.name,
            "licence": self.licence,
            "sha256": self.sha256,
            "prompts": len(self.prompts),
            "kinds": kinds(self.prompts),
            "shape": dict(self.shape),
            "warnings": list(self.warnings),
        }


def kinds(prompts: Iterable[Prompt]) -> dict[str, int]:
    """How many prompts there are of each kind, by name."""
    return dict(sorted(Counter(prompt.kind for prompt in prompts).items()))
