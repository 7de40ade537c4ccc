# SPDX-License-Identifier: Apache-2.0
"""A small synthetic pair for tests, made in about a second from a few files of the standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from specbuild.synthetic import Recipe, synthesize

_STDLIB = Path(sysconfig.get_path("stdlib"))
TEXT = tuple(_STDLIB / name for name in ("argparse.py", "ast.py", "inspect.py", "pathlib.py", "typing.py"))


def tiny_pair(folder: Path, *, draft_rank: int | None = None, seed: int = 0) -> Path:
    """``folder`` holding target/, draft/ and acceptance.json of shape ``tiny``."""
    synthesize(folder, Recipe(shape="tiny", text=TEXT, draft_rank=draft_rank, seed=seed))
    return folder
