# SPDX-License-Identifier: Apache-2.0
"""Prompts of real text: a file of the user's, or sources of Python's own standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

# Modules of every Python from 3.10 to 3.12, of different kinds of code.
_MODULES = ("argparse", "ast", "calendar", "csv", "difflib", "dis", "fractions", "heapq", "inspect", "shutil",
            "statistics", "string", "tarfile", "textwrap", "typing", "zipfile")  # fmt: skip


def prompts(tokenizer: object, count: int, tokens: int, text: Path | None = None) -> list[list[int]]:
    """``count`` prompts of ``tokens`` token ids each, cut at even distances from the text."""
    encode = tokenizer.encode  # type: ignore[attr-defined]
    if text is not None:
        ids = encode(text.read_text(encoding="utf-8"), add_special_tokens=False)
        step = max(1, (len(ids) - tokens) // count)
        return [ids[start : start + tokens] for start in range(0, step * count, step)]
    folder = Path(sysconfig.get_path("stdlib"))
    made = []
    for index in range(count):
        source = (folder / f"{_MODULES[index % len(_MODULES)]}.py").read_text(encoding="utf-8")
        ids = encode(source[:60_000], add_special_tokens=False)
        start = 50 + index // len(_MODULES) * tokens
        made.append(ids[start : start + tokens])
    return made
