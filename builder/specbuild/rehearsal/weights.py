# SPDX-License-Identifier: Apache-2.0
"""What plays the engines: the pair itself when it is small, else a synthetic pair with its vocabulary.

A synthetic one follows a planted order: each token has one successor, for the draft a wrong one now and then.
It takes the target's own tokenizer, so texts, ids and logits have the deployment's shapes; its text is noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from specbuild import artifacts
from specbuild.checkpoint import Checkpoint
from specbuild.config import Config
from specbuild.pairing.finding import ModelName

MAX_PARAMETERS = 700_000_000
"""Of both models together: what a CPU decodes in reasonable time."""
DISAGREEMENT = 0.2
"""Share of tokens whose successor the synthetic draft gets wrong."""
_FORMAT = 1
_SEED = 0


@dataclass(frozen=True, slots=True)
class Cast:
    """Folders in Hugging Face format, by the role that they play."""

    folders: Mapping[ModelName, Path]
    synthetic: bool


def choose(settings: Config, checkpoints: Mapping[ModelName, Checkpoint], folder: Path) -> Cast:
    """The models to rehearse with; a synthetic pair is written to ``folder``."""
    parameters = sum(checkpoint.weights.parameters for checkpoint in checkpoints.values())
    if parameters <= MAX_PARAMETERS:
        return Cast({role: checkpoint.folder for role, checkpoint in checkpoints.items()}, synthetic=False)
    target = checkpoints["target"].config
    special = {target.bos_id, target.pad_id, *target.eos_ids} - {None}
    plant(folder, target.vocab_size, settings.limits.max_seq_len, frozenset(map(int, filter(None, special))))
    return Cast({"target": folder / "target", "draft": folder / "draft"}, synthetic=True)


def plant(folder: Path, vocab_size: int, positions: int, special: frozenset[int]) -> None:
    """``folder`` holds ``target/`` and ``draft/``; tokens in ``special`` are never generated."""
    facts = {"vocab_size": vocab_size, "positions": positions, "special": sorted(special)}
    key = artifacts.content_key({"format": _FORMAT, "disagreement": DISAGREEMENT, "seed": _SEED} | facts)
    with artifacts.lock(folder):
        if artifacts.is_current(folder, key):
            return
        with artifacts.publish(folder, key=key, facts={"kind": "planted pair"} | facts) as staging:
            _write(staging, vocab_size, positions, special)


def _write(folder: Path, vocab_size: int, positions: int, special: frozenset[int]) -> None:
    import torch

    from specbuild.synthetic import weights
    from specbuild.synthetic.shapes import ModelShape

    shape = ModelShape(hidden=64, layers=1, heads=4, kv_heads=2, head_dim=16, intermediate=64)
    generator = torch.Generator().manual_seed(_SEED)
    ordinary = torch.tensor([token for token in range(vocab_size) if token not in special])
    order = ordinary[torch.randperm(len(ordinary), generator=generator)]
    successor = torch.arange(vocab_size)
    successor[order] = order.roll(-1)
    # Rows of +-1 have a mean square of 1, which the final norm leaves as it is, and are far apart.
    embedding = torch.randint(0, 2, (vocab_size, shape.hidden), generator=generator) * 2.0 - 1
    wrong = torch.rand(vocab_size, generator=generator) < DISAGREEMENT
    mistaken = torch.where(wrong, successor[successor], successor)
    for name, follows in (("target", successor), ("draft", mistaken)):
        head = torch.zeros(vocab_size, shape.hidden)
        head.index_add_(0, follows[order], embedding[order] * 0.25)
        (folder / name).mkdir()
        model = weights.Ends(embedding.bfloat16(), head.bfloat16())
        weights.write(folder / name, model, shape, max_positions=positions, seed=_SEED)
