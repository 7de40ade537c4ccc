# SPDX-License-Identifier: Apache-2.0
"""Prompts brought to a distribution of input and output lengths (ISL, OSL), by cutting and extending text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from specclient.bench.workload.errors import WorkloadError
from specclient.bench.workload.prompt import Prompt
from specclient.bench.workload.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Length:
    """A normal distribution of token counts, cut off below 1."""

    mean: int
    stddev: float = 0.0

    def draw(self, generator: random.Random) -> int:
        """One length."""
        return max(1, round(generator.gauss(self.mean, self.stddev)))

    def facts(self) -> dict[str, float]:
        """As JSON types."""
        return asdict(self)


def with_output_length(
    prompts: Sequence[Prompt], length: Length, generator: random.Random
) -> tuple[Prompt, ...]:
    """The same prompts, each with an output length of its own."""
    return tuple(replace(prompt, output_tokens=length.draw(generator)) for prompt in prompts)


def with_input_length(
    prompts: Sequence[Prompt],
    length: Length,
    tokenizer: TextTokenizer,
    generator: random.Random,
    count: int | None = None,
) -> tuple[Prompt, ...]:
    """``count`` prompts (as many as there are unless given) of drawn lengths, made of ``prompts``.

    A text that is too short is preceded by others of its kind, from a random one on, so that requests do not
    share a beginning that the server's KV cache would reuse. Where more prompts are asked for than there
    are, a text that comes again starts at another word. Raises WorkloadError for a conversation.
    """
    if any(prompt.messages for prompt in prompts):
        raise WorkloadError(
            "the length of a conversation cannot be changed",
            remedy="Leave --isl out, or give prompts as text.",
        )
    pools = {prompt.kind: [p.text for p in prompts if p.kind == prompt.kind] for prompt in prompts}
    made = []
    for number, prompt in zip(range(count or len(prompts)), itertools.cycle(prompts), strict=False):
        again = number >= len(prompts)
        text, tokens = tokenizer.fit(
            _later_start(prompt.text, generator) if again else prompt.text,
            length.draw(generator),
            endless(pools[prompt.kind], generator),
        )
        name = f"{prompt.id}-{number // len(prompts) + 1}" if again else prompt.id
        made.append(replace(prompt, id=name, text=text, input_tokens=tokens))
    return tuple(made)


def random_prompts(
    count: int, length: Length, tokenizer: TextTokenizer, generator: random.Random
) -> tuple[Prompt, ...]:
    """``count`` prompts of random tokens. They distort acceptance: for special tests only."""
    ids = iter(lambda: generator.randrange(2**31), -1)
    made = []
    for number in range(count):
        tokens = length.draw(generator)
        filler = (tokenizer.random_text(tokens, ids) for _ in itertools.count())
        text, counted = tokenizer.fit("", tokens, filler)
        made.append(Prompt(f"random-{number + 1}", "random", text, input_tokens=counted))
    return tuple(made)


def endless(texts: Sequence[str], generator: random.Random) -> Iterator[str]:
    """All ``texts`` in turn, from a random one on, again and again."""
    start = generator.randrange(len(texts))
    return itertools.cycle([*texts[start:], *texts[:start]])


def _later_start(text: str, generator: random.Random) -> str:
    words = [position + 1 for position, character in enumerate(text[:-1]) if character.isspace()]
    return text[generator.choice(words) :] if words else text
