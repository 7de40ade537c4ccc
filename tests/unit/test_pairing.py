# SPDX-License-Identifier: Apache-2.0
"""Every rule on a pair with exactly that defect: it is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specbuild import config, pairing
from specbuild.checkpoint import Checkpoint
from specbuild.errors import PairError
from specbuild.pairing import Finding
from support import checkpoints
from support.checkpoints import Recipe

TARGET = Recipe(hidden=32, layers=3)
DRAFT = Recipe()


def settings(root: Path, **changes: Mapping[str, Any]) -> config.Config:
    """Settings of the pair in ``root`` that fit it, with sections changed."""
    document: dict[str, Any] = {
        "name": "tiny",
        "runtime": "torch",
        "target": {"checkpoint": str(root / "target")},
        "draft": {"checkpoint": str(root / "draft")},
        "limits": {"max_input_len": 100, "max_seq_len": 200},
        "output": str(root / "out"),
    }
    for section, values in changes.items():
        document[section] = (
            document.get(section, {}) | dict(values) if isinstance(values, Mapping) else values
        )
    return config.validate(document, source="test")


def findings(
    root: Path, target: Recipe = TARGET, draft: Recipe = DRAFT, **changes: Any
) -> dict[str, Finding]:
    """Findings of a pair by code."""
    checkpoints.pair(root, target, draft)
    report = pairing.inspect(settings(root, **changes))
    found = {finding.code: finding for finding in report.findings}
    assert len(found) == len(report.findings), report.findings
    return found


def only(found: Mapping[str, Finding], code: str) -> Finding:
    assert list(found) == [code]
    assert found[code].severity == pairing.CODES[code].severity
    assert found[code].remedy
    return found[code]


def test_pair_that_fits_has_no_findings(tmp_path: Path) -> None:
    assert findings(tmp_path) == {}
    target, draft = pairing.require(settings(tmp_path))
    assert target.weights.parameters > draft.weights.parameters


# --- vocabulary ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("target_rows", "draft_rows"), [(64, 72), (80, 64), (128, 72)])
def test_padding_rows_are_legal(tmp_path: Path, target_rows: int, draft_rows: int) -> None:
    found = findings(tmp_path, replace(TARGET, rows=target_rows), replace(DRAFT, rows=draft_rows))
    finding = only(found, "vocab-padding-differs")
    assert finding.severity == "info"
    assert f"the target has {target_rows} rows, the draft {draft_rows}" in finding.reason


def test_rows_that_hold_tokens_are_not_padding(tmp_path: Path) -> None:
    found = findings(tmp_path, draft=replace(DRAFT, vocab=62))
    assert "62, 63" in only(found, "vocab-size-differs").reason


def test_tokens_missing_inside_the_common_rows_are_named(tmp_path: Path) -> None:
    found = findings(tmp_path, draft=replace(DRAFT, vocab=63, rows=64))
    assert "63 is 'w63' / nothing" in only(found, "token-text-differs").reason


def test_one_swapped_pair_of_ids_is_found(tmp_path: Path) -> None:
    reason = only(findings(tmp_path, draft=replace(DRAFT, swap=(10, 11))), "token-text-differs").reason
    assert reason.startswith("2 ids differ (target / draft): 10 is 'w10' / 'w11'; 11 is 'w11' / 'w10'")


def test_many_differing_ids_are_counted_and_a_few_shown(tmp_path: Path) -> None:
    draft = replace(DRAFT, specials=(*checkpoints.SPECIALS, "<x>"))
    checkpoints.pair(tmp_path, TARGET, draft)
    tokenizer = tmp_path / "draft" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"w', '"v'))
    found = {f.code: f for f in pairing.inspect(settings(tmp_path)).findings}
    assert found["token-text-differs"].reason.startswith("59 ids differ")
    assert found["token-text-differs"].reason.count(" is ") == 4


def test_differing_control_tokens_are_only_a_warning(tmp_path: Path) -> None:
    draft = replace(DRAFT, specials=("<s>", "</s>", "<|user|>", "<|eot|>"))
    finding = only(findings(tmp_path, draft=draft), "special-tokens-differ")
    assert finding.severity == "warning"
    assert "3 is '<|end|>' / '<|eot|>'" in finding.reason


def test_other_segmentation_with_equal_tokens_is_named(tmp_path: Path) -> None:
    checkpoints.pair(tmp_path, TARGET, DRAFT)
    checkpoints.edit_json(tmp_path / "draft" / "tokenizer.json", normalizer={"type": "NFKC"})
    report = pairing.inspect(settings(tmp_path))
    finding = only({f.code: f for f in report.findings}, "tokenizer-rules-differ")
    assert "differ in normalizer:" in finding.reason


def test_tokens_beyond_the_own_rows_concern_that_model_alone(tmp_path: Path) -> None:
    target, draft = replace(TARGET, vocab=65, rows=64), replace(DRAFT, vocab=65, rows=64)
    checkpoints.pair(tmp_path, target, draft)
    report = pairing.inspect(settings(tmp_path))
    assert [(f.code, f.subject) for f in report.findings] == [
        ("token-without-row", "target"),
        ("token-without-row", "draft"),
    ]
    assert "64 'w64'" in report.findings[0].reason


def test_token_without_a_row_of_its_own_takes_no_row_of_the_other(tmp_path: Path) -> None:
    found = findings(tmp_path, replace(TARGET, rows=72), replace(DRAFT, vocab=65, rows=64))
    assert list(found) == ["token-without-row", "vocab-padding-differs"]


@pytest.mark.parametrize(
    ("draft", "code", "fact"),
    [
        (replace(DRAFT, generation={"bos_token_id": 2}), "bos-differs", "with 0, the draft with 2"),
        (replace(DRAFT, generation={"eos_token_id": 2}), "eos-differs", "with 1, 3, the draft with 1, 2"),
        (replace(DRAFT, chat_template="other"), "chat-template-differs", "differ"),
        (replace(DRAFT, chat_template=None), "chat-template-one-sided", "the draft has none"),
    ],
)
def test_draft_of_another_training_is_told(tmp_path: Path, draft: Recipe, code: str, fact: str) -> None:
    assert fact in only(findings(tmp_path, draft=draft), code).reason


@pytest.mark.parametrize("eos", [None, 64, -1])
def test_target_without_usable_end_token_is_told(tmp_path: Path, eos: int | None) -> None:
    ends = {"config": {"eos_token_id": None}, "generation": {"eos_token_id": eos}}
    found = findings(tmp_path, replace(TARGET, **ends), replace(DRAFT, **ends))
    assert only(found, "eos-missing").subject == "target"


# --- models --------------------------------------------------------------------------------------


def _drop(*names: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in names:
            del tensors[name]

    return change


def _set(name: str, *shape: int) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("model.embed_tokens.weight", "the input embedding"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.layers.1.mlp.up_proj.weight", "layer 1's mlp.up_proj.weight"),
    ],
)
def test_missing_tensor_is_named(tmp_path: Path, name: str, fact: str) -> None:
    assert fact in only(findings(tmp_path, replace(TARGET, tensors=_drop(name))), "tensor-missing").reason


def test_missing_layer_is_named(tmp_path: Path) -> None:
    found = findings(tmp_path, replace(TARGET, config={"num_hidden_layers": 4}))
    assert only(found, "tensor-missing").reason == "the weights lack layer 3"


def test_tied_model_needs_no_output_layer(tmp_path: Path) -> None:
    assert findings(tmp_path, replace(TARGET, tied=True), replace(DRAFT, tied=True)) == {}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (63, 32)),
        ("lm_head.weight", (64, 31)),
        ("model.layers.0.self_attn.k_proj.weight", (32, 32)),
    ],
)
def test_tensor_that_contradicts_the_config_is_named(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    finding = only(findings(tmp_path, replace(TARGET, tensors=_set(name, *shape))), "tensor-shape")
    assert name in finding.reason
    assert str(list(shape)) in finding.reason


@pytest.mark.parametrize(
    ("family", "tensors", "fact"),
    [
        ("gpt2", _set("transformer.wpe.weight", 8, 8), "absolute positions"),
        ("bloom", _set("model.extra", 1), "ALiBi"),
        ("mamba2", _set("model.layers.0.mixer.A_log", 8), "recurrent state"),
    ],
)
def test_models_without_rotary_attention_are_refused_for_torch(
    tmp_path: Path, family: str, tensors: Callable[[dict[str, np.ndarray]], None], fact: str
) -> None:
    target = replace(TARGET, config={"model_type": family}, tensors=tensors)
    assert fact in only(findings(tmp_path, target), "architecture-unsupported").reason
    assert findings(tmp_path, target, runtime="llmapi") == {}


def test_unknown_rotary_family_is_a_warning(tmp_path: Path) -> None:
    changes = {"model_type": "exaone4", "architectures": ["Exaone4ForCausalLM"]}
    finding = only(findings(tmp_path, replace(TARGET, config=changes)), "architecture-untested")
    assert finding.severity == "warning"


def test_quantised_checkpoint_needs_another_runtime(tmp_path: Path) -> None:
    target = replace(TARGET, config={"quantization_config": {"quant_method": "awq"}})
    assert "awq" in only(findings(tmp_path, target), "quantization-unsupported").reason
    assert findings(tmp_path, target, runtime="llmapi") == {}


@pytest.mark.parametrize(
    ("section", "code"),
    [({"quantization": "fp8"}, "quantization-unsupported"), ({"tp_size": 2}, "parallelism-unsupported")],
)
def test_settings_of_gpu_runtimes_are_refused_for_torch(
    tmp_path: Path, section: dict[str, object], code: str
) -> None:
    checkpoints.pair(tmp_path, TARGET, DRAFT)
    found = pairing.inspect(settings(tmp_path, target=section)).findings
    assert [(finding.code, finding.subject) for finding in found] == [(code, "target")]


@pytest.mark.parametrize(
    ("device", "codes"), [("cpu", ["quantization-unsupported"]), ("cuda", []), ("auto", [])]
)
def test_weights_in_8_bits_need_a_gpu(tmp_path: Path, device: str, codes: list[str]) -> None:
    checkpoints.pair(tmp_path, TARGET, DRAFT)
    chosen = settings(tmp_path, draft={"quantization": "int8_wo"}, torch={"device": device})
    assert [finding.code for finding in pairing.inspect(chosen).findings] == codes


def _as_dtype(dtype: Any) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors.update({name: array.astype(dtype) for name, array in tensors.items()})

    return change


def test_weights_of_an_integer_type_are_refused(tmp_path: Path) -> None:
    found = findings(tmp_path, replace(TARGET, tensors=_as_dtype(np.int8)))
    assert "stored as I8" in only(found, "dtype-unsupported").reason


def test_config_of_a_type_nobody_computes_in_is_refused(tmp_path: Path) -> None:
    found = findings(tmp_path, replace(TARGET, config={"torch_dtype": "float8_e4m3fn"}))
    assert "float8_e4m3fn" in only(found, "dtype-unsupported").reason


def test_dtype_of_the_settings_replaces_the_configs(tmp_path: Path) -> None:
    checkpoints.pair(tmp_path, replace(TARGET, config={"torch_dtype": "float8_e4m3fn"}), DRAFT)
    assert pairing.inspect(settings(tmp_path, target={"dtype": "bfloat16"})).findings == ()


def test_narrowing_bfloat16_to_float16_is_a_warning(tmp_path: Path) -> None:
    target, _ = checkpoints.pair(tmp_path, TARGET, DRAFT)
    checkpoints.to_bfloat16(target / "model.safetensors")
    assert Checkpoint.open(target).weights.dtype == "BF16"
    narrowed = settings(tmp_path, target={"dtype": "float16"})
    assert [f.code for f in pairing.inspect(narrowed).findings] == ["dtype-narrowed"]


def test_trusted_code_is_a_warning(tmp_path: Path) -> None:
    checkpoints.pair(tmp_path, replace(TARGET, config={"auto_map": {"AutoModel": "own.Own"}}), DRAFT)
    trusting = settings(tmp_path, target={"trust_remote_code": True})
    assert [f.code for f in pairing.inspect(trusting).findings] == ["custom-code-trusted"]
    assert [f.code for f in pairing.inspect(settings(tmp_path)).findings] == ["custom-code"]


# --- sizes ---------------------------------------------------------------------------------------


def test_same_folder_is_a_warning(tmp_path: Path) -> None:
    checkpoints.pair(tmp_path, TARGET, DRAFT)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    found = pairing.inspect(settings(tmp_path, draft={"checkpoint": str(tmp_path / "link")})).findings
    assert [(f.code, f.severity) for f in found] == [("draft-is-target", "warning")]


@pytest.mark.parametrize(
    ("draft", "code", "severity"),
    [
        (Recipe(hidden=32, layers=4), "draft-larger-than-target", "error"),
        (Recipe(hidden=32, layers=3), "draft-too-large", "warning"),
        (Recipe(hidden=32, layers=2), "draft-too-large", "warning"),
    ],
)
def test_draft_that_cannot_pay_off_is_told(tmp_path: Path, draft: Recipe, code: str, severity: str) -> None:
    assert only(findings(tmp_path, draft=draft), code).severity == severity


def test_of_a_mixture_only_the_chosen_experts_count(tmp_path: Path) -> None:
    """A target with 8 experts of which one is chosen costs an eighth of them per token."""

    def experts(tensors: dict[str, np.ndarray]) -> None:
        for index in range(8):
            tensors[f"model.layers.0.mlp.experts.{index}.up_proj.weight"] = np.zeros((100, 32), np.float32)

    mixture = replace(DRAFT, tensors=experts, config={"num_local_experts": 8, "num_experts_per_tok": 1})
    cheap = findings(tmp_path / "a", mixture, Recipe(hidden=24, layers=3))
    assert "draft-larger-than-target" in cheap
    dense = replace(mixture, config={"num_local_experts": 8, "num_experts_per_tok": 8})
    assert "draft-larger-than-target" not in findings(tmp_path / "b", dense, Recipe(hidden=24, layers=3))


@pytest.mark.parametrize(
    ("target", "draft", "subject"),
    [(replace(TARGET, context=128), DRAFT, "target"), (TARGET, replace(DRAFT, context=128), "draft")],
)
def test_limit_beyond_the_context_names_the_model(
    tmp_path: Path, target: Recipe, draft: Recipe, subject: str
) -> None:
    finding = only(findings(tmp_path, target, draft), "context-too-short")
    assert finding.subject == subject
    assert "128" in finding.remedy


@pytest.mark.parametrize(
    ("max_input_len", "max_seq_len", "draft_length", "codes"),
    [
        (1, 6, 5, ["max-seq-len-too-small"]),
        (1, 7, 5, []),
        (195, 200, 5, ["draft-length-over-output"]),
        (194, 200, 5, []),
    ],
)
def test_draft_length_must_fit_the_limits(
    tmp_path: Path, max_input_len: int, max_seq_len: int, draft_length: int, codes: list[str]
) -> None:
    limits = {"max_input_len": max_input_len, "max_seq_len": max_seq_len}
    found = findings(tmp_path, limits=limits, speculation={"draft_length": draft_length})
    assert list(found) == codes


# --- together ------------------------------------------------------------------------------------


def test_all_reasons_are_listed_errors_first(tmp_path: Path) -> None:
    draft = replace(DRAFT, swap=(10, 11), chat_template="other", context=100, generation={"bos_token_id": 3})
    checkpoints.pair(tmp_path, TARGET, draft)
    (tmp_path / "target" / "model.safetensors").write_bytes(b"broken")
    report = pairing.inspect(settings(tmp_path))
    assert [finding.code for finding in report.findings] == [
        "shard-corrupt",
        "token-text-differs",
        "context-too-short",
        "bos-differs",
        "chat-template-differs",
    ]
    assert not report.ok


def test_compare_takes_open_checkpoints(tmp_path: Path) -> None:
    target, draft = checkpoints.pair(tmp_path, TARGET, replace(DRAFT, swap=(10, 11)))
    found = pairing.compare(Checkpoint.open(target), Checkpoint.open(draft), settings(tmp_path))
    assert [finding.code for finding in found] == ["token-text-differs"]


def test_require_raises_every_error_and_no_warning(tmp_path: Path) -> None:
    checkpoints.pair(tmp_path, TARGET, replace(DRAFT, swap=(10, 11), context=100, chat_template=None))
    with pytest.raises(PairError) as caught:
        pairing.require(settings(tmp_path))
    assert "token-text-differs" in caught.value.message
    assert "context-too-short" in caught.value.message
    assert "chat-template" not in caught.value.message
    assert "specbuild check" in caught.value.remedy
