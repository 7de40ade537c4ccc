# SPDX-License-Identifier: Apache-2.0
"""What a tritonserver log says about a failure."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL_BYTES = 64 << 10
_TAIL_LINES = 20
_ERROR = re.compile(r"^(?:error: |\d{4}-\d\d-\d\dT\S+ E |E\d{4} )")
# A machine without a GPU makes Triton say the first three at every start; 2.51 says the last one of clients
# that close a stream which has ended.
_HARMLESS = re.compile(r"cuda|dcgm|pinned|HandleCancellation called even when", re.IGNORECASE)


def tail(path: Path) -> str:
    """The last lines of the log, indented."""
    return "\n".join(f"    {line}" for line in _lines(path)[-_TAIL_LINES:])


def reason(path: Path) -> str:
    """The first error in the log's last part, which is the cause of those after it."""
    errors = [line for line in _lines(path) if _ERROR.match(line) and not _HARMLESS.search(line)]
    return errors[0] if errors else "the log names no error"


def _lines(path: Path) -> list[str]:
    """The last lines; bytes that are not UTF-8 are replaced, a missing log is empty."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
