# SPDX-License-Identifier: Apache-2.0
"""What happens to one setting on the way to the LLM API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["carried", "changed", "lost"]
KINDS: tuple[Kind, ...] = ("carried", "changed", "lost")


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the report."""

    kind: Kind
    setting: str
    """Where it was: ``limits.max_batch_size``, or ``tensorrt_llm/enable_chunked_context``."""
    value: str
    """What it was; after a change, ``old → new``."""
    reason: str
    """Why it is not carried over as it was; empty when it is."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A configuration document (unvalidated) with the notes about it."""

    document: Mapping[str, Any]
    notes: tuple[Note, ...]
