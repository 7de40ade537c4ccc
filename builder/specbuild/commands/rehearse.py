# SPDX-License-Identifier: Apache-2.0
"""``specbuild rehearse``: the generated repository on a real Triton, without a GPU."""

from __future__ import annotations

from dataclasses import asdict

import click

from specbuild.commands.options import as_json, configured, print_json, verbose
from specbuild.config import Config
from specbuild.progress import step
from specbuild.rehearsal.canaries import Canary
from specbuild.rehearsal.performance import Result


@click.command()
@configured
@verbose
@as_json
def rehearse(settings: Config, as_json: bool) -> int:
    """Load the repository on a real Triton, with the torch runtime in the place of TensorRT-LLM.

    \b
    Example:
      specbuild rehearse --config configs/llama8b.yaml

    Canary prompts go through `ensemble` (draft and target) and `ensemble_baseline` (the target alone), and
    must get the same tokens. The pair plays itself if it is small; otherwise a synthetic pair with its
    tokenizer does, and then the text means nothing. What has been written by `specbuild repository` is
    served byte for byte; without it, a repository for engines that are not built yet is written beside it.
    Exit code 1 when a canary fails or disagrees.
    """
    from specbuild.rehearsal.performance import rehearse as perform

    with step("rehearsal") as report:
        result = perform(settings, report)
        report(f"{len(result.canaries)} canaries")
    if as_json:
        print_json(_document(result))
    else:
        _show(result)
    return 0 if result.ok else 1


def _document(result: Result) -> dict[str, object]:
    return {"ok": result.ok, **asdict(result)}


def _show(result: Result) -> None:
    kind = (
        "synthetic weights: speed and acceptance mean nothing"
        if result.synthetic
        else "the pair's own weights"
    )
    click.echo(f"repository  {result.repository}")
    click.echo(f"weights     {kind}")
    click.echo(f"loaded in   {result.load_s:.1f} s, log in {result.log}")
    click.echo(f"{'request':<12} {'agree':>7} {'tokens':>7} {'rounds':>7} {'accepted':>9} {'first ms':>9}")
    for name in dict.fromkeys(one.request for one in result.canaries):
        click.echo(_row(name, [one for one in result.canaries if one.request == name]))
    for one in result.canaries:
        if one.complaint or one.agrees is False:
            click.echo(
                f"{one.request}, {one.prompt!r}: {one.complaint or 'other tokens than the target alone'}"
            )
    click.echo("The repository loads and the loop works." if result.ok else "The rehearsal failed.")


def _row(name: str, sung: list[Canary]) -> str:
    compared = [one.agrees for one in sung if one.agrees is not None]
    agree = f"{sum(compared)}/{len(compared)}" if compared else "-"
    drafted, accepted = sum(one.drafted for one in sung), sum(one.accepted for one in sung)
    rate = f"{accepted / drafted:.0%}" if drafted else "-"
    tokens, rounds = sum(one.tokens for one in sung), sum(one.rounds for one in sung)
    first = sum(one.first_text_ms for one in sung) / len(sung)
    return f"{name:<12} {agree:>7} {tokens:>7} {rounds:>7} {rate:>9} {first:>9.0f}"
