# SPDX-License-Identifier: Apache-2.0
"""Greedy outputs compared in 16-bit arithmetic, where two almost equal logits may change places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

TOLERANCE = 0.05
"""Two logits are a near-tie when they differ by less than this share of the largest one. bfloat16 has eight
bits, and a few layers with random weights add up some of its steps."""


@dataclass(frozen=True)
class Divergence:
    """The first place where two outputs differ."""

    request: int
    position: int
    gap: float
    """How far the worse token's logit in float32 is behind the best one, relative to the largest logit."""

    @property
    def near_tie(self) -> bool:
        return self.gap < TOLERANCE


class Referee:
    """Judges by the model in ``folder`` in float32 on the CPU, as transformers runs it."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder).float().eval()

    def divergences(
        self,
        prompts: Sequence[Sequence[int]],
        expected: Sequence[Sequence[int]],
        got: Sequence[Sequence[int]],
    ) -> list[Divergence]:
        """Where outputs begin to differ; what follows such a place has another context and says nothing."""
        found = []
        for request, (prompt, one, other) in enumerate(zip(prompts, expected, got, strict=True)):
            assert len(one) == len(other), f"request {request}: {len(one)} and {len(other)} tokens"
            for position, tokens in enumerate(zip(one, other, strict=True)):
                if tokens[0] != tokens[1]:
                    logits = self.logits([*prompt, *one[:position]])[-1]
                    found.append(Divergence(request, position, max(_gap(logits, token) for token in tokens)))
                    break
        return found

    def misjudged(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[Divergence]:
        """Every token that is not the best one after the tokens before it."""
        logits = self.logits([*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        gaps = [_gap(row, token) for row, token in zip(logits, tokens, strict=True)]
        return [Divergence(0, position, gap) for position, gap in enumerate(gaps) if gap > 0]

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """After each of ``tokens`` [n, V]."""
        logits: torch.Tensor = self._model(torch.tensor([list(tokens)])).logits[0]
        return logits


def _gap(logits: torch.Tensor, token: int) -> float:
    """How far ``token`` is behind the best one of [V], relative to the largest logit."""
    return float((logits.max() - logits[token]) / logits.abs().max())


def require_ties_only(
    divergences: Sequence[Divergence], requests: int, tokens: int, what: str, *, most: float = 0.02
) -> None:
    """Print how many near-ties there were; fail on any other difference, or on more than a share ``most``."""
    wrong = [one for one in divergences if not one.near_tie]
    print(f"{what}: {len(divergences)} near-ties in {requests} requests of {tokens} tokens in all")
    assert not wrong, f"{what}: not near-ties: {wrong[:3]}"
    assert len(divergences) <= max(1.0, most * tokens), f"{what}: more near-ties than rounding explains"
