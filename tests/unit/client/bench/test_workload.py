# SPDX-License-Identifier: Apache-2.0
"""The bundled prompts are what the report says they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from specclient.bench import bundled


def test_the_bundled_prompts_are_real_text_of_four_kinds() -> None:
    workload = bundled()
    kinds = Counter(prompt.kind for prompt in workload.prompts)
    assert set(kinds) == {"code", "chat", "summarise", "structured"}
    assert min(kinds.values()) >= 9 and len(workload.prompts) == 40
    assert len({prompt.id for prompt in workload.prompts}) == 40
    assert all(100 <= len(prompt.text) <= 1500 for prompt in workload.prompts)
    assert workload.licence == "CC0-1.0"


def test_the_hash_changes_with_any_prompt() -> None:
    workload = bundled()
    assert workload.sha256 == bundled().sha256
    changed = (replace(workload.prompts[0], text="x"), *workload.prompts[1:])
    assert replace(workload, prompts=changed).sha256 != workload.sha256


def test_drawing_is_fixed_by_the_seed_and_uses_every_prompt_before_repeating() -> None:
    workload = bundled()
    drawn = workload.draw(100, seed=3)
    assert drawn == workload.draw(100, seed=3) != workload.draw(100, seed=4)
    assert len(drawn) == 100
    for start in (0, 40):
        assert len(set(drawn[start : start + 40])) == 40
