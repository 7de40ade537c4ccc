# SPDX-License-Identifier: Apache-2.0
"""``specbuild pair``: synthetic pairs, whose acceptance is known in closed form."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from specbuild.commands import options
from specbuild.synthetic import PLANTED_SHAPES, SHAPES, PlantedRecipe, Recipe, Synthesized
from specbuild.synthetic import plant as make_planted
from specbuild.synthetic import synthesize as make
from specbuild.synthetic.planted_pair import ALPHAS


@click.group()
def pair() -> None:
    """Make a synthetic pair with known acceptance.

    \b
    Example:
      specbuild pair synthesize --output build/demo/pair
    """


@pair.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for target/, draft/ and acceptance.json.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File or folder of UTF-8 text; repeatable. Default: Python's own standard library.",
)
@click.option(
    "--shape", type=click.Choice(list(SHAPES)), default="demo", show_default=True, help="Size of the models."
)
@click.option("--vocab-size", type=click.IntRange(min=1), help="Tokens of the tokenizer (demo: 4096).")
@click.option("--target-rank", type=click.IntRange(min=1), help="Rank of the target's table (demo: 767).")
@click.option(
    "--draft-rank",
    type=click.IntRange(min=1),
    help="Rank of the draft's table (demo: 511); a lower one is accepted less.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the weights."
)
@options.as_json
@options.verbose
def synthesize(output: Path, as_json: bool, **recipe: Any) -> None:
    """Write a draft and a target whose acceptance is known, in Hugging Face format.

    Both are bigram models of a text inside Llama checkpoints of real size: a step costs what it costs
    with trained weights, and acceptance.json says what the draft will be accepted. Nothing is
    downloaded. An unchanged pair is left as it is.

    \b
    Example:
      specbuild pair synthesize --output build/demo/pair
      specbuild pair synthesize --output build/weak --draft-rank 127 --text docs/
    """
    start = time.monotonic()
    made = make(output, Recipe(**recipe))
    if as_json:
        options.print_json({"folder": str(made.folder), "reused": made.reused, **made.acceptance})
    else:
        _print(made, time.monotonic() - start)


def _print(made: Synthesized, seconds: float) -> None:
    facts = made.acceptance
    click.echo(f"{'model':8} {'parameters':>12} {'rank':>6}")
    for name in ("target", "draft"):
        click.echo(f"{name:8} {facts[name]['parameters'] / 1e6:>10.1f} M {facts[name]['rank']:>6}")
    click.echo(f"α sampled {facts['sampled']['alpha']:.3f}, α greedy {facts['greedy']['alpha']:.3f}")
    click.echo(f"{made.folder} {'unchanged' if made.reused else 'written'} in {seconds:.1f} s")


@pair.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for target/, draft/ and acceptance.json.",
)
@click.option(
    "--shape",
    type=click.Choice(list(PLANTED_SHAPES)),
    default="llama-8b-1b",
    show_default=True,
    help="Size of the models; llama-8b-1b needs 19 GB of disk.",
)
@click.option(
    "--alpha",
    "alphas",
    type=click.FloatRange(0, 1),
    multiple=True,
    default=ALPHAS,
    show_default=True,
    help="Acceptance; repeatable, an equal part of the vocabulary gets each.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the weights."
)
@options.as_json
@options.verbose
def plant(output: Path, as_json: bool, shape: str, alphas: tuple[float, ...], seed: int) -> None:
    """Write a pair of a real model's shape that agrees on a chosen share of tokens.

    For speed on a GPU with a full vocabulary: the next token is a planted permutation, and the text is
    noise. A prompt chooses the acceptance by its last token: acceptance.json names the first token of each
    cycle. An unchanged pair is left as it is.

    \b
    Example:
      specbuild pair plant --output build/planted
      specbuild pair plant --output build/small --shape tiny --alpha 0.8
    """
    start = time.monotonic()
    made = make_planted(output, PlantedRecipe(shape, alphas, seed))
    if as_json:
        options.print_json({"folder": str(made.folder), "reused": made.reused, **made.acceptance})
        return
    for name in ("target", "draft"):
        click.echo(f"{name:8} {made.acceptance[name]['parameters'] / 1e6:>10.1f} M parameters")
    for cycle in made.acceptance["cycles"]:
        click.echo(f"α {cycle['alpha']:.3f} from token {cycle['first_token']} ({cycle['tokens']} tokens)")
    click.echo(
        f"{made.folder} {'unchanged' if made.reused else 'written'} in {time.monotonic() - start:.1f} s"
    )
