# SPDX-License-Identifier: Apache-2.0
"""The prompts that come with the package: real text of four kinds, written for this project.

They are dedicated to the public domain (CC0-1.0).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from specclient.bench.workload.errors import WorkloadError
from specclient.bench.workload.prompt import Prompt, Workload

KINDS = ("code", "chat", "summarise", "structured")

_FILE = Path(__file__).with_name("prompts.jsonl")


def bundled(kinds: Collection[str] = ()) -> Workload:
    """The bundled prompts, of these ``kinds`` only unless empty. Raises WorkloadError for an unknown kind."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise WorkloadError(
            f"there are no bundled prompts of kind {unknown[0]!r}", remedy=f"Choose among {', '.join(KINDS)}."
        )
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    prompts = tuple(Prompt(**json.loads(line)) for line in lines)
    if kinds:
        prompts = tuple(prompt for prompt in prompts if prompt.kind in kinds)
    return Workload("bundled-2", "CC0-1.0", prompts)
