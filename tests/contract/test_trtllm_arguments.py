# SPDX-License-Identifier: Apache-2.0
"""Every command that can be planned is one that TensorRT-LLM's programs accept."""

from __future__ import annotations

import argparse
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specbuild import config
from specbuild.engines import contracts, releases, steps
from specbuild.engines.families import FAMILIES
from specbuild.engines.plan import Plan, Step
from specbuild.engines.quantization import CALIBRATION_NAMES, FORMATS
from specbuild.engines.steps import Source, Toolchain
from support.trtllm_tools import arguments, build

ROOT = Path(__file__).parents[2]
TOOLS = Toolchain("python3", "trtllm-build", PurePosixPath("/app/examples"), PurePosixPath("/app"))
# Script, as the end of its path -> contract file
CONTRACTS = {
    "trtllm-build": "trtllm_build",
    "quantization/quantize.py": "quantize",
    "llama/convert_checkpoint.py": "convert_checkpoint_llama",
    "qwen/convert_checkpoint.py": "convert_checkpoint_qwen",
    "gemma/convert_checkpoint.py": "convert_checkpoint_gemma",
}


def parsed(step: Step) -> tuple[str, argparse.Namespace]:
    """The contract that ``step`` falls under, and its arguments as argparse reads them."""
    script = step.argv[0] if step.argv[0].endswith("trtllm-build") else step.argv[1]
    contract = next(name for end, name in CONTRACTS.items() if script.endswith(end))
    words = list(step.argv[step.argv.index(script) + 1 :])
    assert all(isinstance(word, str) for word in words)
    return contract, arguments.parse(contract, words)


def source(model_type: str, folder: str = "/models/some model") -> Source:
    return Source(Path(folder), model_type, "bfloat16", 32_000, 4096, 7_000_000_000, "d" * 64)


def document(**sections: Any) -> dict[str, Any]:
    base = {
        "name": "pair",
        "runtime": "tensorrt_llm",
        "target": {"checkpoint": "t"},
        "draft": {"checkpoint": "d"},
        "output": "build/pair",
    }
    return base | sections


def plan(model_type: str, **sections: Any) -> Plan:
    sources = {"target": source(model_type), "draft": source(model_type)}
    chosen = config.validate(document(**sections), source="test")
    return steps.plan(chosen, sources, TOOLS, (9, 0))


@st.composite
def configurations(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A family and any combination of the options that ``specbuild check`` finds no error in."""
    model_type = draw(st.sampled_from(sorted(FAMILIES)))
    family = FAMILIES[model_type]
    cache = draw(st.sampled_from(["auto", "fp8"]))
    formats = [n for n in FORMATS if family.makes(n) and (cache == "auto" or FORMATS[n].fp8_kv)]
    max_seq_len = draw(st.integers(8, 300_000))

    def model() -> dict[str, Any]:
        return {
            "checkpoint": "somewhere",
            "dtype": draw(st.sampled_from(["auto", "float16", "bfloat16"])),
            "quantization": draw(st.sampled_from([*([None] if cache == "auto" else []), *formats])),
            "tp_size": draw(st.integers(1, 64)),
            "pp_size": draw(st.integers(1, 64)) if family.pipeline_parallel else 1,
        }

    sections = {
        "target": model(),
        "draft": model(),
        "speculation": {
            "draft_length": draw(st.integers(1, 64)),
            "acceptance": draw(st.sampled_from(["exact", "logits"])),
        },
        "limits": {
            "max_batch_size": draw(st.integers(1, 4096)),
            "max_input_len": draw(st.integers(1, max_seq_len - 1)),
            "max_seq_len": max_seq_len,
        },
        "kv_cache": {"dtype": cache},
        "tensorrt_llm": {
            "calibration_dataset": draw(st.sampled_from([*sorted(CALIBRATION_NAMES), "data/calibration"]))
        },
        "output": draw(st.sampled_from(["build/x", "/some where/é", "--max_batch_size", "a=b", "$(id)"])),
    }
    return model_type, sections


@given(configurations())
@settings(deadline=None, max_examples=300)
def test_every_planned_command_parses_under_the_contract(case: tuple[str, dict[str, Any]]) -> None:
    model_type, sections = case
    for step in plan(model_type, **sections).steps:
        contract, args = parsed(step)
        if contract == "trtllm_build":
            build._refuse_combinations(args)


@given(configurations())
@settings(deadline=None, max_examples=100)
def test_both_engines_keep_the_rules_of_a_pair(case: tuple[str, dict[str, Any]]) -> None:
    model_type, sections = case
    made = plan(model_type, **sections)
    target, draft = (parsed(made.of(role)[-1])[1] for role in ("target", "draft"))
    assert target.speculative_decoding_mode == "draft_tokens_external"
    assert target.max_draft_len == sections["speculation"]["draft_length"]
    assert draft.speculative_decoding_mode is None
    assert draft.max_draft_len == 0
    for args in (target, draft):
        assert args.use_paged_context_fmha == "enable"
        assert args.kv_cache_type == "paged"
        assert args.max_beam_width == 1
        assert not args.gather_context_logits
        assert not args.gather_all_token_logits
        assert args.max_input_len == args.max_seq_len == sections["limits"]["max_seq_len"]
        assert args.max_num_tokens >= args.max_batch_size * (target.max_draft_len + 1)
    shared = ("max_batch_size", "max_num_tokens", "tokens_per_block", "gather_generation_logits")
    assert [getattr(target, name) for name in shared] == [getattr(draft, name) for name in shared]


@pytest.mark.parametrize(
    ("model_type", "quantization", "script", "flags"),
    [
        ("llama", None, "llama/convert_checkpoint.py", {"tp_size": 2, "use_weight_only": False}),
        ("mistral", "int8_wo", "llama/convert_checkpoint.py", {"weight_only_precision": "int8"}),
        ("llama", "fp8_pc_pt", "llama/convert_checkpoint.py", {"use_fp8_rowwise": True}),
        ("llama", "fp8", "quantization/quantize.py", {"qformat": "fp8", "tp_size": 2}),
        ("qwen2", "int4_wo", "qwen/convert_checkpoint.py", {"weight_only_precision": "int4"}),
        ("qwen3", "fp8", "quantization/quantize.py", {"qformat": "fp8"}),
        ("gemma", None, "gemma/convert_checkpoint.py", {"world_size": 2, "ckpt_type": "hf"}),
        ("gemma2", "int4_awq", "quantization/quantize.py", {"awq_block_size": 128}),
    ],
)
def test_each_family_and_format_takes_its_own_script(
    model_type: str, quantization: str | None, script: str, flags: dict[str, Any]
) -> None:
    target = {"checkpoint": "t", "quantization": quantization, "tp_size": 2}
    step = plan(model_type, target=target).of("target")[0]
    assert step.argv[1].endswith(script)
    args = vars(parsed(step)[1])
    assert {name: args[name] for name in flags} == flags


def test_fp8_cache_reaches_both_scripts() -> None:
    model = {"checkpoint": "t", "quantization": "fp8"}
    made = plan("llama", target=model, draft=model, kv_cache={"dtype": "fp8"})
    for role in ("target", "draft"):
        quantize, engine = (parsed(step)[1] for step in made.of(role))
        assert quantize.kv_cache_dtype == "fp8"
        assert engine.use_fp8_context_fmha == "enable"


PRESETS = sorted(
    path for path in (ROOT / "configs").glob("*.yaml") if config.load(path).runtime == "tensorrt_llm"
)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_plan_commands_that_parse(path: Path) -> None:
    preset = config.load(path)
    sources = {role: source(_family_of(getattr(preset, role).checkpoint)) for role in ("target", "draft")}
    made = steps.plan(preset, sources, TOOLS, (9, 0))
    assert [parsed(step)[0] for step in made.steps]
    assert releases.refusal(preset.tensorrt_llm.version) is None
    assert releases.version_in(preset.tensorrt_llm.image) == preset.tensorrt_llm.version


def test_there_is_a_preset_for_each_size_that_users_ask_for() -> None:
    assert {"llama8b", "llama70b", "qwen2.5-32b", "mistral"} <= {path.stem for path in PRESETS}


def _family_of(checkpoint: str) -> str:
    name = checkpoint.lower()
    return "qwen2" if "qwen2" in name else "mistral" if "mistral" in name else "llama"


# --- the contract files themselves ---------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in arguments.CONTRACTS.glob("*.json")))
def test_every_contract_names_its_upstream_source(name: str) -> None:
    for entry in contracts.document(name)["source"]:
        assert entry["repo"]
        assert entry["path"]
        assert any(key in entry for key in ("commit", "refs", "tag", "ref"))


@pytest.mark.parametrize("name", CONTRACTS.values())
def test_the_product_and_the_stand_ins_read_the_same_flags(name: Any) -> None:
    known = contracts.flags(name)
    for flag in arguments.document(name)["flags"]:
        assert known[flag["name"]].type in {"int", "float", "str", "enum", "bool"}
        assert all(known[alias] is known[flag["name"]] for alias in flag.get("aliases", ()))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--max_drft_len", "3"], "no flag"),
        (["--max_draft_len", "three"], "not of type int"),
        (["--max_draft_len", "3", "--max_draft_len", "3"], "twice"),
        (["--kv_cache_type", "sparse"], "none of continuous, paged, disabled"),
        (["--use_paged_context_fmha", "true"], "none of enable, disable"),
        (["--max_draft_len"], "not of type int"),
    ],
)
def test_a_wrong_argument_is_named(words: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        contracts.parse("trtllm_build", words)


def test_a_missing_required_flag_is_named() -> None:
    with pytest.raises(ValueError, match="needs --output-model-dir"):
        contracts.parse("convert_checkpoint_gemma", ["--model_dir", "m"])


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        ("trtllm_build", ["--max_output_len", "3"]),
        ("trtllm_build", ["--speculative_decoding_mode", "draft"]),
        ("quantize", ["--qformat", "fp4"]),
        ("convert_checkpoint_qwen", ["--model_dir", "m", "--use_fp8"]),
        ("convert_checkpoint_gemma", ["--model_dir", "m", "--output_dir", "o", "--tp_size", "2"]),
        ("convert_checkpoint_llama", ["--tp_size", "two"]),
    ],
)
def test_stand_ins_refuse_what_the_real_programs_refuse(
    contract: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        arguments.parse(contract, words)
    assert raised.value.code == 2
    assert "error" in capsys.readouterr().err
