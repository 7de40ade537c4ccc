# SPDX-License-Identifier: Apache-2.0
"""What greedy speculative decoding of a written synthetic pair will accept, to the last token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from specbuild.synthetic.planted_pair import SUCCESSORS


@dataclass(frozen=True, slots=True)
class GreedyRun:
    """Counts summed over prompts."""

    rounds: int
    drafted: int
    accepted: int

    @property
    def draft_acceptance_rate(self) -> float:
        """accepted / drafted; 0 when nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def acceptance_length(self) -> float:
        """1 + accepted / rounds; 1 when there was no round."""
        return 1 + self.accepted / self.rounds if self.rounds else 1.0


def predict_greedy(pair: Path, last_tokens: Iterable[int], *, tokens: int, draft_length: int) -> GreedyRun:
    """The rounds it takes to continue prompts that end in ``last_tokens`` by ``tokens`` tokens each.

    ``pair`` holds ``target/`` and ``draft/``. The first token comes from the prompt's prefill and
    takes no round; a round drafts no token beyond ``tokens``, of which the bonus is always one.
    """
    successor, draft = (_successors(pair / model) for model in ("target", "draft"))
    rounds = drafted = accepted = 0
    for last in last_tokens:
        context, produced = successor[last], 1
        while produced < tokens:
            burst = min(draft_length, tokens - produced - 1)
            kept = 0
            while kept < burst and draft[context] == successor[context]:
                context, kept = successor[context], kept + 1
            context = successor[context]
            produced += kept + 1
            rounds, drafted, accepted = rounds + 1, drafted + burst, accepted + kept
    return GreedyRun(rounds, drafted, accepted)


def _successors(model: Path) -> list[int]:
    """The greedy successor of each token."""
    from safetensors import safe_open

    from specbuild.synthetic import weights

    planted = model.parent / SUCCESSORS
    if planted.exists():
        with safe_open(planted, framework="pt") as file:
            written: list[int] = file.get_tensor(model.name).tolist()
            return written
    with safe_open(model / "model.safetensors", framework="pt") as file:
        ends = weights.Ends(file.get_tensor("model.embed_tokens.weight"), file.get_tensor("lm_head.weight"))
    following: list[int] = weights.logits(ends).argmax(1).tolist()
    return following
