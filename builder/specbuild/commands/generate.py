# SPDX-License-Identifier: Apache-2.0
"""``specbuild generate``: one prompt, streamed to the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from specbuild.commands.options import as_json, print_json, verbose
from specbuild.commands.remote import Server, connected, sampling, server_errors

if TYPE_CHECKING:
    from specclient import Completion
    from specclient.interrupts import Interrupts


@click.command()
@click.argument("prompt")
@connected
@sampling
@as_json
@verbose
def generate(prompt: str, server: Server, fields: dict[str, Any], as_json: bool) -> None:
    """Stream the answer to PROMPT from the running server; "-" reads the prompt from stdin.

    The text goes to stdout as it arrives, and a line of figures to stderr at the end. Ctrl-C cancels
    the request on the server.

    \b
    Example:
      specbuild generate "def quicksort(values):" --max-tokens 64
      specbuild generate - --temperature 0.8 --seed 1 < prompt.txt
      specbuild generate "Why is the sky blue?" --chat-template build/llama8b/engines/target
    """
    from specclient.interrupts import Interrupts

    if prompt == "-":
        prompt = _stdin()
    interrupts = Interrupts()
    with server_errors():
        answer = interrupts.run(_answer(interrupts, server, prompt, fields, show=not as_json))
    if as_json:
        print_json(_document(answer))
    else:
        click.echo(_line(answer), err=True)


async def _answer(
    interrupts: Interrupts, server: Server, prompt: str, fields: dict[str, Any], *, show: bool
) -> Completion:
    """The whole answer; its text is shown as it comes."""
    messages = [{"role": "user", "content": prompt}] if server.chat_template is not None else prompt
    text = ""
    async with server.connect() as client, client.stream(messages, **fields) as chunks:
        try:
            async for chunk in chunks:
                text += chunk.text
                if show:
                    with interrupts.writing():
                        click.echo(chunk.text, nl=False)
        finally:
            if show and text and not text.endswith("\n"):
                with interrupts.writing():
                    click.echo()
        return chunks.completion()


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"stdin is not UTF-8 text: byte {error.start} cannot be decoded") from None


def _document(answer: Completion) -> dict[str, Any]:
    counters = answer.counters
    return {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "num_input_tokens": counters.num_input_tokens,
        "num_output_tokens": answer.output_tokens,
        "num_rounds": counters.num_rounds,
        "total_draft_tokens": counters.total_draft_tokens,
        "total_accepted_draft_tokens": counters.total_accepted_draft_tokens,
        "acceptance_length": answer.acceptance_length,
        "draft_acceptance_rate": answer.draft_acceptance_rate,
        "ttft_ms": _ms(answer.ttft),
        "tpot_ms": _ms(answer.tpot),
        "latency_ms": _ms(answer.latency),
    }


def _line(answer: Completion) -> str:
    """``64 tokens · TTFT 52.1 ms · TPOT 14.8 ms · acceptance length 3.41``; what is undefined is left out."""
    parts = [f"{answer.output_tokens} tokens"]
    parts += [f"{name} {ms:.1f} ms" for name, ms in _times(answer) if ms is not None]
    if answer.acceptance_length is not None:
        parts.append(f"acceptance length {answer.acceptance_length:.2f}")
    return " · ".join(parts)


def _times(answer: Completion) -> list[tuple[str, float | None]]:
    return [("TTFT", _ms(answer.ttft)), ("TPOT", _ms(answer.tpot))]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
