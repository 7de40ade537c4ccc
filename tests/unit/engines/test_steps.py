# SPDX-License-Identifier: Apache-2.0
"""The numbers and keys of a plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from specbuild import config
from specbuild.engines import steps
from specbuild.engines.plan import Plan, shell_line
from specbuild.engines.quantization import Capability
from specbuild.engines.steps import Source, Toolchain

TOOLS = Toolchain("python3", "trtllm-build", PurePosixPath("/app/examples"))
SOURCE = Source(Path("/models/x"), "llama", "bfloat16", 32_000, 4096, 7_000_000_000, "d" * 64)


def settings(**sections: Any) -> config.Config:
    base = {
        "name": "pair",
        "runtime": "tensorrt_llm",
        "target": {"checkpoint": "t"},
        "draft": {"checkpoint": "d"},
        "output": "build/pair",
    }
    return config.validate(base | sections, source="test")


def plan(
    *,
    source: Source = SOURCE,
    tools: Toolchain = TOOLS,
    capability: Capability | None = (9, 0),
    **sections: Any,
) -> Plan:
    return steps.plan(settings(**sections), {"target": source, "draft": source}, tools, capability)


def keys(made: Plan) -> list[str]:
    return [step.key for step in made.steps]


@pytest.mark.parametrize(
    ("limits", "draft_length", "tokens"),
    [
        ((8, 4096), 5, 8192),  # trtllm-build's default
        ((8, 12_000), 5, 12_000),  # the longest prompt in one piece
        ((8, 131_072), 5, 16_384),  # beyond, prompts are prefilled in chunks
        ((4096, 4096), 5, 24_576),  # a full batch is verified in one pass
        ((1, 256), 5, 256),  # the builder accepts no more than a batch of full sequences
    ],
)
def test_tokens_per_pass_cover_prompt_and_verification(
    limits: tuple[int, int], draft_length: int, tokens: int
) -> None:
    batch, length = limits
    chosen = settings(
        limits={"max_batch_size": batch, "max_input_len": 64, "max_seq_len": length},
        speculation={"draft_length": draft_length},
    )
    assert steps.num_tokens(chosen) == tokens


def test_the_target_stores_the_draft_length_on_top_of_its_sequence() -> None:
    expected = plan(speculation={"draft_length": 7}).expected
    assert expected["target"].max_seq_len == expected["draft"].max_seq_len + 7
    assert expected["target"].speculative_decoding_mode == 2
    assert expected["draft"].speculative_decoding_mode == 1


@pytest.mark.parametrize(("stored", "wanted", "computed"), [
    ("bfloat16", "auto", "bfloat16"),
    ("float32", "auto", "float16"),
    ("bfloat16", "float16", "float16"),
])  # fmt: skip
def test_the_compute_type_is_explicit(stored: str, wanted: str, computed: str) -> None:
    made = plan(source=dataclasses.replace(SOURCE, dtype=stored), target={"checkpoint": "t", "dtype": wanted})
    argv = made.of("target")[0].argv
    assert argv[argv.index("--dtype") + 1] == computed
    assert made.expected["target"].dtype == computed


def test_keys_do_not_depend_on_places() -> None:
    moved = plan(
        source=dataclasses.replace(SOURCE, folder=Path("/elsewhere")),
        tools=Toolchain("/usr/bin/python", "/opt/trtllm-build", PurePosixPath("/src/examples")),
        output="another/folder",
    )
    assert keys(moved) == keys(plan())


@pytest.mark.parametrize(
    "changed",
    [
        {"capability": (8, 0)},
        {"source": dataclasses.replace(SOURCE, digest="e" * 64)},
        {"tensorrt_llm": {"version": "1.2.0"}},
        {"limits": {"max_batch_size": 3}},
    ],
)
def test_keys_depend_on_what_comes_out(changed: dict[str, Any]) -> None:
    made, other = keys(plan()), keys(plan(**changed))
    assert made[1] != other[1]
    assert made[3] != other[3]


def calibrated(folder: str, digest: str) -> Plan:
    fp8 = {"checkpoint": "t", "quantization": "fp8"}
    chosen = settings(target=fp8, draft=fp8, tensorrt_llm={"calibration_dataset": folder})
    return steps.plan(chosen, {"target": SOURCE, "draft": SOURCE}, TOOLS, (9, 0), calibration=digest)


def test_keys_depend_on_the_calibration_data_and_not_on_its_place() -> None:
    assert keys(calibrated("data", "a" * 64)) == keys(calibrated("moved/data", "a" * 64))
    assert not set(keys(calibrated("data", "a" * 64))) & set(keys(calibrated("data", "b" * 64)))


@pytest.mark.parametrize(
    ("quantization", "rows"), [(None, 32_001), ("fp8", 32_001), ("int4_awq", 32_064), ("w4a8_awq", 32_064)]
)
def test_awq_pads_the_vocabulary(quantization: str | None, rows: int) -> None:
    made = plan(
        source=dataclasses.replace(SOURCE, vocab_size=32_001),
        target={"checkpoint": "t", "quantization": quantization},
    )
    assert made.expected["target"].vocab_size == rows


def test_a_relocated_step_writes_elsewhere_and_reads_the_same() -> None:
    step = plan().of("target")[-1]
    moved = step.relocated(Path("/staging"))
    assert moved.folder == Path("/staging")
    assert "/staging/model.cache" in moved.argv
    assert str(step.folder) not in " ".join(moved.argv)
    assert (moved.inputs, moved.key) == (step.inputs, step.key)


def test_a_shell_line_is_quoted() -> None:
    assert shell_line(["a b", "$(id)"], {"X": "y z"}) == "env 'X=y z' 'a b' '$(id)'"
    assert shell_line(["a"], {}) == "a"
