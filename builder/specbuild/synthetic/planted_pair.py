# SPDX-License-Identifier: Apache-2.0
"""Planted pairs on disk: from a recipe to ``target/``, ``draft/`` and the plant itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from specbuild import artifacts, progress
from specbuild.errors import ConfigError
from specbuild.synthetic import tokenizer
from specbuild.synthetic.pair import ACCEPTANCE, Synthesized, require_torch
from specbuild.synthetic.shapes import ModelShape

if TYPE_CHECKING:
    from specbuild.synthetic.planted import Plant

SUCCESSORS = "successors.safetensors"
"""Beside the models: what is planted, tensors ``target`` and ``draft`` [V] int64."""
ALPHAS = (0.6, 0.7, 0.8, 0.9)
_FORMAT = 1  # raised whenever the same recipe makes other files
_MIN_CYCLE = 64  # fewer tokens could not carry an acceptance of two digits


@dataclass(frozen=True, slots=True)
class PlantedShape:
    """Two models over one vocabulary; both have an output layer of their own."""

    target: ModelShape
    draft: ModelShape
    vocab_size: int
    max_positions: int


PLANTED_SHAPES: Mapping[str, PlantedShape] = MappingProxyType(
    {
        # Llama-3.1-8B and Llama-3.2-1B, 16.1 and 3.0 GB: https://huggingface.co/meta-llama, config.json. The
        # latter ties its output layer to its embedding; here they differ, which costs a step nothing.
        "llama-8b-1b": PlantedShape(
            target=ModelShape(hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, intermediate=14336),
            draft=ModelShape(hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64, intermediate=8192),
            vocab_size=128_256,
            max_positions=131_072,
        ),
        # For tests, in a second.
        "tiny": PlantedShape(
            target=ModelShape(hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, intermediate=256),
            draft=ModelShape(hidden=128, layers=1, heads=2, kv_heads=1, head_dim=32, intermediate=128),
            vocab_size=2048,
            max_positions=8192,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class PlantedRecipe:
    """What a planted pair is made from."""

    shape: str = "llama-8b-1b"
    alphas: tuple[float, ...] = ALPHAS
    """An equal part of the vocabulary is planted with each."""
    seed: int = 0


def plant(output: Path, recipe: PlantedRecipe) -> Synthesized:
    """The pair of ``recipe`` is complete in ``output``; an unchanged one is left as it is.

    Raises ConfigError for values that do not fit, MissingDependencyError without torch, and BuildError when
    ``output`` cannot be written.
    """
    shape = _checked(recipe)
    facts = {"kind": "planted pair", "shape": asdict(shape), "alphas": recipe.alphas, "seed": recipe.seed}
    key = artifacts.content_key({"format": _FORMAT} | facts)
    with artifacts.lock(output):
        if reused := artifacts.is_current(output, key):
            document = json.loads((output / ACCEPTANCE).read_text(encoding="utf-8"))
        else:
            require_torch()
            with artifacts.publish(output, key=key, facts=facts) as staging:
                document = write(staging, recipe)
    return Synthesized(output, reused, document)


def write(folder: Path, recipe: PlantedRecipe) -> dict[str, Any]:
    """The pair in ``folder``, without manifest or lock, which for 19 GB cost more than the pair itself.

    Returns the content of acceptance.json.
    """
    from specbuild.synthetic import planted, sharded

    shape = _checked(recipe)
    planned = planted.plan(shape.vocab_size, recipe.alphas, recipe.seed)
    words = tokenizer.made_of_words(shape.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)

    def model(name: str, size: ModelShape, seed: int) -> None:
        (folder / name).mkdir(exist_ok=True)
        tokenizer.write(words, folder / name, max_length=shape.max_positions)
        successor = planned.target if name == "target" else planned.draft
        sharded.write(
            folder / name,
            functools.partial(planted.ends, successor, size.hidden, seed),
            size,
            shape.vocab_size,
            positions=shape.max_positions,
            seed=seed,
        )

    with progress.step("planted weights") as report, ThreadPoolExecutor(2) as pool:
        parameters = [size.parameters(shape.vocab_size) for size in (shape.target, shape.draft)]
        report(" and ".join(f"{count / 1e6:.0f} M" for count in parameters) + " parameters")
        jobs = [
            pool.submit(model, "target", shape.target, 2 * recipe.seed),
            pool.submit(model, "draft", shape.draft, 2 * recipe.seed + 1),
        ]
        for job in jobs:
            job.result()
    _write_plant(folder, planned)
    document = _document(shape, recipe, planned, parameters)
    (folder / ACCEPTANCE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def read(folder: Path) -> Plant:
    """What is planted in the pair in ``folder``."""
    from safetensors.torch import load_file

    from specbuild.synthetic.planted import Cycle, Plant

    document = json.loads((folder / ACCEPTANCE).read_text(encoding="utf-8"))
    tensors = load_file(folder / SUCCESSORS)
    successor = tensors["target"].tolist()

    def walk(first: int) -> tuple[int, ...]:
        tokens = [first]
        while (following := successor[tokens[-1]]) != first:
            tokens.append(following)
        return tuple(tokens)

    cycles = tuple(Cycle(entry["alpha"], walk(entry["first_token"])) for entry in document["cycles"])
    return Plant(tensors["target"], tensors["draft"], cycles)


def _checked(recipe: PlantedRecipe) -> PlantedShape:
    if recipe.shape not in PLANTED_SHAPES:
        raise ConfigError(
            f"no planted shape {recipe.shape!r}", remedy=f"Choose one of: {', '.join(PLANTED_SHAPES)}."
        )
    shape = PLANTED_SHAPES[recipe.shape]
    if not recipe.alphas or not all(0 <= alpha <= 1 for alpha in recipe.alphas):
        raise ConfigError(
            f"acceptances {recipe.alphas} are no probabilities", remedy="Name one or more from 0 to 1."
        )
    if shape.vocab_size // len(recipe.alphas) < _MIN_CYCLE:
        raise ConfigError(
            f"{len(recipe.alphas)} acceptances are too many for {shape.vocab_size} tokens",
            remedy=f"Name at most {shape.vocab_size // _MIN_CYCLE}.",
        )
    return shape


def _write_plant(folder: Path, planned: Plant) -> None:
    from safetensors.torch import save_file

    save_file({"target": planned.target, "draft": planned.draft}, folder / SUCCESSORS)
    (folder / SUCCESSORS).chmod(0o644)  # safetensors lets only the owner read


def _document(
    shape: PlantedShape, recipe: PlantedRecipe, planned: Plant, parameters: list[int]
) -> dict[str, Any]:
    return {
        "synthetic": True,
        "planted": True,
        "shape": recipe.shape,
        "vocab_size": shape.vocab_size,
        "seed": recipe.seed,
        "target": {"parameters": parameters[0]},
        "draft": {"parameters": parameters[1]},
        "contexts": "prompts that end in the cycle; greedy, or sampled at temperature 1",
        "cycles": [
            {"alpha": cycle.alpha, "tokens": len(cycle.tokens), "first_token": cycle.tokens[0]}
            for cycle in planned.cycles
        ],
    }
