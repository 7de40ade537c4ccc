# SPDX-License-Identifier: Apache-2.0
"""From a recipe to a published folder: read text, build both models, compute their acceptance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specbuild import artifacts, progress
from specbuild.errors import ConfigError, MissingDependencyError
from specbuild.synthetic import corpus, tokenizer
from specbuild.synthetic.corpus import Corpus
from specbuild.synthetic.shapes import SHAPES, PairShape

if TYPE_CHECKING:
    from specbuild.synthetic.closed_form import Greedy, Sampled

ACCEPTANCE = "acceptance.json"
_FORMAT = 1  # raised whenever the same recipe makes other files
_MAX_VOCAB_SIZE = 8192  # the table is dense: half a dozen copies of V x V floats
_DRAFT_LESSONS = 1  # see tour.teach; the target takes as many as it needs


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a pair is made from; None takes the shape's own value."""

    shape: str = "demo"
    text: tuple[Path, ...] = ()
    vocab_size: int | None = None
    target_rank: int | None = None
    draft_rank: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Synthesized:
    """A published pair: ``folder`` holds target/, draft/ and acceptance.json."""

    folder: Path
    reused: bool
    acceptance: Mapping[str, Any]
    """The content of acceptance.json."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A recipe with every value decided and checked."""

    shape: PairShape
    vocab_size: int
    target_rank: int
    draft_rank: int
    seed: int


def synthesize(output: Path, recipe: Recipe) -> Synthesized:
    """The pair of ``recipe`` is complete in ``output``; an unchanged one is left as it is.

    Raises ConfigError for values that do not fit, MissingDependencyError without torch, and
    BuildError when ``output`` cannot be written.
    """
    plan = _plan(recipe)
    text = corpus.read(recipe.text)
    key = artifacts.content_key({"format": _FORMAT, "plan": asdict(plan), "text": text.sha256})
    with artifacts.lock(output):
        if reused := artifacts.is_current(output, key):
            document = json.loads((output / ACCEPTANCE).read_text(encoding="utf-8"))
        else:
            require_torch()
            facts = {"kind": "synthetic pair", "text": text.source, "seed": plan.seed}
            with artifacts.publish(output, key=key, facts=facts) as staging:
                document = _write(staging, plan, text)
    return Synthesized(output, reused, document)


def _plan(recipe: Recipe) -> _Plan:
    if recipe.shape not in SHAPES:
        raise ConfigError(f"no shape {recipe.shape!r}", remedy=f"Choose one of: {', '.join(SHAPES)}.")
    shape = SHAPES[recipe.shape]
    plan = _Plan(
        shape=shape,
        vocab_size=_chosen(recipe.vocab_size, shape.vocab_size),
        target_rank=_chosen(recipe.target_rank, shape.target_rank),
        draft_rank=_chosen(recipe.draft_rank, shape.draft_rank),
        seed=recipe.seed,
    )
    _check_range("vocabulary size", plan.vocab_size, tokenizer.MIN_VOCAB_SIZE, _MAX_VOCAB_SIZE)
    _check_range("target rank", plan.target_rank, 1, min(shape.target.max_rank, plan.vocab_size))
    _check_range("draft rank", plan.draft_rank, 1, min(shape.draft.max_rank, plan.target_rank))
    return plan


def _chosen(value: int | None, default: int) -> int:
    return default if value is None else value


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(
            f"{name} {value} does not fit this pair", remedy=f"Choose a {name} from {low} to {high}."
        )


def require_torch() -> None:
    """Return if PyTorch is installed, else raise MissingDependencyError."""
    if find_spec("torch") is None:
        raise MissingDependencyError(
            "making a synthetic pair needs PyTorch", remedy="Run: pip install 'specbuild[torch]'"
        )


def _write(folder: Path, plan: _Plan, text: Corpus) -> dict[str, Any]:
    """Both models and acceptance.json in ``folder``; returns the content of the latter."""
    from specbuild.synthetic import bigram, closed_form, tour, weights

    with progress.step("tokenizer") as report:
        tokens = tokenizer.train(text.documents, plan.vocab_size)
        documents = tokenizer.encode(tokens, text.documents)
        report(f"{tokens.get_vocab_size()} tokens from {text.size / 1e6:.1f} MB of {text.source}")
    with progress.step("bigram factors"):
        table = bigram.smooth(bigram.count(documents, tokens.get_vocab_size()))
        factors = bigram.factorise(table, plan.target_rank, plan.seed)
        cycle = tour.find(table)
        target = weights.ends(tour.teach(factors, cycle), plan.shape.target.hidden)
        learnt = tour.teach(factors.truncated(plan.draft_rank), cycle, rounds=_DRAFT_LESSONS)
        draft = weights.ends(learnt, plan.shape.draft.hidden)
    with progress.step("closed-form acceptance") as report:
        logits = weights.logits(target), weights.logits(draft)
        sampled, greedy = closed_form.sampled(*logits), closed_form.greedy(*logits, table.contexts)
        report(f"α {sampled.alpha:.3f} sampled, {greedy.alpha:.3f} greedy")
    for name, model, shape in (("target", target, plan.shape.target), ("draft", draft, plan.shape.draft)):
        with progress.step(f"{name} weights") as report:
            report(f"{shape.parameters(len(model.head)) / 1e6:.1f} M parameters")
            (folder / name).mkdir()
            positions = plan.shape.max_positions
            tokenizer.write(tokens, folder / name, max_length=positions)
            weights.write(folder / name, model, shape, max_positions=positions, seed=plan.seed)
    document = _document(plan, text, sum(map(len, documents)), len(target.head))
    document |= {"sampled": _sampled(sampled), "greedy": _greedy(greedy)}
    (folder / ACCEPTANCE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _document(plan: _Plan, text: Corpus, text_tokens: int, vocab_size: int) -> dict[str, Any]:
    """What acceptance.json says besides the acceptance."""
    models = {"target": (plan.shape.target, plan.target_rank), "draft": (plan.shape.draft, plan.draft_rank)}
    return {
        "synthetic": True,
        "text": {"source": text.source, "bytes": text.size, "tokens": text_tokens, "sha256": text.sha256},
        "vocab_size": vocab_size,
        "seed": plan.seed,
    } | {
        name: {"parameters": shape.parameters(vocab_size), "rank": min(rank, vocab_size)}
        for name, (shape, rank) in models.items()
    }


def _sampled(figures: Sampled) -> dict[str, Any]:
    lengths = {str(length): value for length, value in enumerate(figures.acceptance_length, 1)}
    contexts = "stationary distribution of sampling from the target at temperature 1"
    return {"contexts": contexts} | asdict(figures) | {"acceptance_length": lengths}


def _greedy(figures: Greedy) -> dict[str, Any]:
    return {"contexts": "the cycles that greedy decoding ends in"} | asdict(figures)
