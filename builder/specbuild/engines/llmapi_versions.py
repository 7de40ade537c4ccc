# SPDX-License-Identifier: Apache-2.0
"""How each TensorRT-LLM release spells draft-target speculation in the LLM API: llmapi_versions.json, read.

Keys and values changed between 1.0, 1.2.1 and 1.3, and an unknown one stops the server.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbuild.engines.releases import Release
from specbuild.errors import ConfigError

_DATA = Path(__file__).with_name("llmapi_versions.json")


@dataclass(frozen=True, slots=True)
class AcceptanceStop:
    """Two keys that switch speculation off for good when its acceptance stays low."""

    window: str
    """Key of the number of ``counts`` that are averaged."""
    threshold: str
    """Key of the least average of ``averages``."""
    counts: str
    averages: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one range of releases reads."""

    name: str
    first: Release
    """Included."""
    end: Release | None
    """Excluded; None for the newest range."""
    decoding_type: str
    draft_model: str
    """Key of the draft checkpoint."""
    execution: str
    overlap_scheduler: bool
    """Whether the overlap scheduler works with a draft model; if not, it must be switched off."""
    max_concurrency: bool | None
    """Whether the key exists; None where that was not read."""
    draft_len_schedule: str | None
    """What its keys mean; None where it is absent or was not read."""
    acceptance_stop: AcceptanceStop | None
    rejection_sampling: str | None
    """Key that turns rejection sampling on (acceptance: logits)."""
    serve_option: str
    """trtllm-serve's option for a YAML file."""
    evidence: str

    def covers(self, release: Release) -> bool:
        return self.first <= release and (self.end is None or release < self.end)


def dialect(version: str) -> Dialect:
    """The dialect of a release. Raises ConfigError for releases older than 1.0."""
    release = Release.parse(version)
    found = next((row for row in dialects() if row.covers(release)), None)
    if found is None:
        raise ConfigError(
            f"tensorrt_llm.version {version}: its LLM API has no draft-target speculation that is known",
            remedy="Set tensorrt_llm.version to 1.0.0 or later.",
        )
    return found


@functools.cache
def dialects() -> tuple[Dialect, ...]:
    """Every row of the table, oldest first."""
    rows = json.loads(_DATA.read_text(encoding="utf-8"))["rows"]
    return tuple(_row(row) for row in rows)


def _row(row: Mapping[str, Any]) -> Dialect:
    values = dict(row)
    stop, first, end = values.pop("acceptance_stop"), values.pop("from"), values.pop("before")
    return Dialect(
        first=Release.parse(first),
        end=None if end is None else Release.parse(end),
        acceptance_stop=None if stop is None else AcceptanceStop(**stop),
        **values,
    )


def markdown() -> str:
    """The table of docs/llmapi.md: a column per row of the data."""
    rows = dialects()
    lines = [["TensorRT-LLM", *(row.name for row in rows)], ["---"] * (len(rows) + 1)]
    lines += [[title, *map(cell, rows)] for title, cell in _CELLS]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _stop(row: Dialect) -> str:
    stop = row.acceptance_stop
    if stop is None:
        return "not written"
    return f"`{stop.window}` ({stop.counts}), `{stop.threshold}` ({stop.averages})"


_CELLS: tuple[tuple[str, Callable[[Dialect], str]], ...] = (
    ("`decoding_type`", lambda row: f"`{row.decoding_type}`"),
    ("draft checkpoint", lambda row: f"`{row.draft_model}`"),
    ("execution", lambda row: row.execution),
    ("`disable_overlap_scheduler`", lambda row: "may be false" if row.overlap_scheduler else "true"),
    ("`max_concurrency`", lambda row: "yes" if row.max_concurrency else "not read"),
    ("`draft_len_schedule`", lambda row: row.draft_len_schedule or "not read, or changed within"),
    ("stop at low acceptance", _stop),
    ("`acceptance: logits`", lambda row: f"`{row.rejection_sampling}`" if row.rejection_sampling else "no"),
    ("`trtllm-serve` option", lambda row: f"`{row.serve_option}`"),
    ("how it is known", lambda row: row.evidence),
)
