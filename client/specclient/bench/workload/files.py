# SPDX-License-Identifier: Apache-2.0
"""Prompts from a file: JSON Lines with a prompt or messages in each line, or the ShareGPT format.

JSON Lines: each line is an object with ``prompt`` (or ``text``, ``text_input``) or ``messages``, a list of
``{"role": ..., "content": ...}``; ``id``, ``kind`` and ``output_tokens`` (or ``max_tokens``,
``output_length``) are optional and anything else is ignored.

ShareGPT: a JSON array of ``{"id": ..., "conversations": [{"from": "human", "value": ...}, {"from": "gpt",
...}]}``, as in anon8231489123/ShareGPT_Vicuna_unfiltered. The first human turn is the prompt and, given a
tokenizer, the length of its answer the output length, as in vLLM's ``bench serve --dataset-name sharegpt``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from specclient.bench.workload.errors import WorkloadError
from specclient.bench.workload.prompt import Message, Prompt, Workload
from specclient.errors import InvalidRequest
from specclient.parameters import checked_text

TEXT_KEYS = ("prompt", "text", "text_input")
OUTPUT_KEYS = ("output_tokens", "max_tokens", "output_length")

CountTokens = Callable[[str], int]


def from_file(path: Path, count_tokens: CountTokens | None = None) -> Workload:
    """The prompts of ``path``, in either format; told apart by its first character.

    ``count_tokens`` counts the tokens of an answer. Raises WorkloadError, which names the place in the file.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        prompts = tuple(_sharegpt(path, text, count_tokens))
    else:
        prompts = tuple(_lines(path, text))
    if not prompts:
        raise WorkloadError(f"{path} has no prompts", remedy="Give a file with at least one.")
    return Workload(path.name, "unknown", prompts)


def read_text(path: Path) -> str:
    """The file's text. Raises WorkloadError when it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise WorkloadError(
            f"cannot read {path}: {error.strerror}", remedy="Name a readable file."
        ) from error
    except UnicodeDecodeError as error:
        raise WorkloadError(
            f"{path} is not UTF-8: byte {error.start}", remedy="Save the file as UTF-8."
        ) from error


def objects(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSON Lines file with its place, "FILE line N". Empty lines are skipped."""
    # Not splitlines: it also splits at U+2028, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise WorkloadError(
                f"{place} is not JSON: {error}", remedy="Write one object per line."
            ) from None
        if not isinstance(value, dict):
            raise WorkloadError(f"{place} is not a JSON object", remedy="Write one object per line.")
        yield place, value


def prompt_of(place: str, entry: Mapping[str, Any], *, default_id: str) -> Prompt:
    """The prompt of one object of a JSON Lines file. Raises WorkloadError."""
    messages = _messages(place, entry["messages"]) if "messages" in entry else ()
    key = next((key for key in TEXT_KEYS if key in entry), None)
    if not messages and key is None:
        raise WorkloadError(
            f"{place} has neither a prompt nor messages",
            remedy=f"Give one of {', '.join(TEXT_KEYS)}, messages.",
        )
    text = "\n\n".join(message.content for message in messages) if messages else entry[key or ""]
    return Prompt(
        id=str(entry.get("id", default_id)),
        kind=str(entry.get("kind", "file")),
        text=text_of(place, text),
        messages=messages,
        output_tokens=output_tokens_of(place, entry),
    )


def output_tokens_of(place: str, entry: Mapping[str, Any]) -> int | None:
    """The output length of an object, under any of its names; None where it has none."""
    key = next((key for key in OUTPUT_KEYS if entry.get(key) is not None), None)
    return None if key is None else positive(place, key, entry[key])


def positive(place: str, key: str, value: Any) -> int:
    """``value`` as an integer of at least 1. Raises WorkloadError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WorkloadError(f"{place}: {key} is {value!r}", remedy="Use an integer of at least 1.")
    return value


def text_of(place: str, value: Any) -> str:
    """``value`` as text that can be sent. Raises WorkloadError."""
    if not isinstance(value, str):
        raise WorkloadError(f"{place}: a prompt is not text", remedy="Write prompts as JSON strings.")
    try:
        checked_text(value, place)
    except InvalidRequest as error:
        raise WorkloadError(error.message, remedy=error.remedy) from None
    return value


def _lines(path: Path, text: str) -> Iterator[Prompt]:
    for number, (place, entry) in enumerate(objects(path, text), 1):
        yield prompt_of(place, entry, default_id=f"{path.stem}-{number}")


def _messages(place: str, value: Any) -> tuple[Message, ...]:
    turns = value if isinstance(value, list) else []
    if not turns or not all(isinstance(turn, dict) and isinstance(turn.get("role"), str) for turn in turns):
        raise WorkloadError(
            f"{place}: messages is no list of turns",
            remedy='Write [{"role": "user", "content": "..."}, ...].',
        )
    return tuple(Message(turn["role"], text_of(place, turn.get("content"))) for turn in turns)


def _sharegpt(path: Path, text: str, count_tokens: CountTokens | None) -> Iterator[Prompt]:
    try:
        conversations = json.loads(text)
    except ValueError as error:
        raise WorkloadError(f"{path} is not JSON: {error}", remedy="Give the whole ShareGPT file.") from None
    for number, conversation in enumerate(conversations, 1):
        place = f"{path} conversation {number}"
        turns = conversation.get("conversations") if isinstance(conversation, dict) else None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise WorkloadError(
                f'{place} has no "conversations"', remedy="Give a ShareGPT file, or one JSON object per line."
            )
        asked = next((i for i, turn in enumerate(turns) if turn.get("from") in ("human", "user")), None)
        if asked is None or not turns[asked].get("value"):
            continue  # the published file has some that start with an answer, or are empty
        answer = turns[asked + 1].get("value") if asked + 1 < len(turns) else None
        counted = count_tokens(answer) if count_tokens is not None and isinstance(answer, str) else 0
        yield Prompt(
            id=str(conversation.get("id", f"{path.stem}-{number}")),
            kind="sharegpt",
            text=text_of(place, turns[asked]["value"]),
            output_tokens=counted or None,
        )
