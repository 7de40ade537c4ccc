# SPDX-License-Identifier: Apache-2.0
"""The prompts of a benchmark.

The bundled ones are real text of four kinds, written for this project and dedicated to the public domain
(CC0-1.0). Random tokens are no substitute: a draft guesses them worse, or their repetitive continuations
better, than what users send (SPEED-Bench, arXiv 2604.09557, found throughput overstated by 23 %).
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

_BUNDLED = Path(__file__).with_name("prompts.jsonl")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt. ``kind`` is code, chat, summarise or structured in the bundled set."""

    id: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Workload:
    """A named set of prompts."""

    name: str
    licence: str
    prompts: tuple[Prompt, ...]

    @property
    def sha256(self) -> str:
        """Identifies the set: equal for equal prompts in equal order."""
        text = json.dumps([asdict(prompt) for prompt in self.prompts], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def draw(self, count: int, seed: int) -> list[Prompt]:
        """``count`` prompts in an order fixed by ``seed``; each once before any comes again."""
        generator = random.Random(seed)
        drawn: list[Prompt] = []
        while len(drawn) < count:
            drawn += generator.sample(self.prompts, len(self.prompts))
        return drawn[:count]


def bundled() -> Workload:
    """The prompts that come with the package."""
    lines = _BUNDLED.read_text(encoding="utf-8").splitlines()
    return Workload("bundled-1", "CC0-1.0", tuple(Prompt(**json.loads(line)) for line in lines))
