# SPDX-License-Identifier: Apache-2.0
"""What is proposed when memory has run out fits, and the next larger setting does not."""

from __future__ import annotations

import re

import pytest

from specbuild.planning import memory, shortage

GIB = 1 << 30
SIZES = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 128_256, "dtype": "bfloat16"}
LARGE = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336}
SMALL = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16, "intermediate_size": 8192}
MODELS = memory.model_memory(SIZES | LARGE), memory.model_memory(SIZES | SMALL)
ASKED = {"slots": 64, "max_seq_len": 8192, "draft_length": 7}


def explained(available: int, **changes: int) -> tuple[str, dict[str, int]]:
    """The message, and the settings that the remedy names."""
    message, remedy = shortage.explain(available, *MODELS, **{**ASKED, **changes})
    return message, {name: int(value) for name, value in re.findall(r"limits\.(\w+) to (\d+)", remedy)}


def total(**changes: int) -> int:
    return memory.plan(*MODELS, **{**ASKED, **changes}).total


@pytest.mark.parametrize("gib", [24, 40, 80])
def test_the_largest_settings_that_fit_are_named(gib: int) -> None:
    message, lower = explained(gib * GIB)
    assert re.search(rf"needs \d+\.\d GiB \(weights .* KV cache .*the GPU has {gib}\.0 GiB", message)
    slots, length = lower["max_batch_size"], lower["max_seq_len"]
    assert total(slots=slots) <= gib * GIB < total(slots=slots + 1)
    assert total(max_seq_len=length) <= gib * GIB < total(max_seq_len=length + 1)


def test_a_setting_that_alone_does_not_help_is_left_out() -> None:
    _, lower = explained(20 * GIB, slots=1024)
    assert lower == {"max_batch_size": lower["max_batch_size"]}


def test_where_the_weights_do_not_fit_nothing_is_to_be_lowered() -> None:
    assert shortage.explain(8 * GIB, *MODELS, **ASKED)[1] == "Use a larger GPU or a smaller pair."


def test_where_the_plan_fits_a_tenth_is_to_go() -> None:
    _, lower = explained(total())
    assert lower == {"max_batch_size": 57, "max_seq_len": 7372}
    _, lower = explained(total(slots=1), slots=1)
    assert lower == {"max_seq_len": 7372}
