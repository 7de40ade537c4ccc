# SPDX-License-Identifier: Apache-2.0
"""What a program wrote, compared with what was asked for.

trtllm-build changes settings with no more than a warning: it raises limits, and it turns paged context
FMHA off where the KV cache's type does not allow it, which costs the pair its reuse of the prefix. So the
engine's own config.json is read (tensorrt_llm/builder.py at 008b2b8d, ``EngineConfig.to_dict``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from specbuild.checkpoint.safetensors import read_header
from specbuild.engines import releases
from specbuild.engines.plan import Expected, Step
from specbuild.errors import BuildError, CheckpointError

_MAX_CONFIG_BYTES = 16 << 20


def require(step: Step, expected: Expected) -> None:
    """Every output of ``step`` is there and is what was planned. Raises BuildError listing what is not."""
    problems = [*missing(step)] or [*_differences(step, expected)]
    if problems:
        raise BuildError(
            f"{step.name} finished, but " + "; ".join(problems),
            remedy="Nothing was published. If the log shows no reason, the program is not of the "
            "TensorRT-LLM version that the configuration names.",
        )


def missing(step: Step) -> Iterator[str]:
    """Outputs that are absent, empty or cut off."""
    for path in step.outputs:
        if not path.is_file():
            yield f"{path.name} is missing"
        elif path.stat().st_size == 0:
            yield f"{path.name} is empty"
        elif path.suffix == ".safetensors":
            try:
                read_header(path, file=path.name)
            except CheckpointError as error:
                yield error.message


def _differences(step: Step, expected: Expected) -> Iterator[str]:
    document = read_config(step.folder)
    if "build_config" in document:
        yield from engine_differences(document, expected)
    elif step.outputs[-1].suffix == ".engine":
        yield "config.json has no build_config"
    else:
        yield from _model_differences(document, expected)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of an engine or a TensorRT-LLM checkpoint. Raises BuildError when it is not JSON."""
    path = folder / "config.json"
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_CONFIG_BYTES).decode("utf-8"))
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read: {error}", remedy="Build again.") from None
    return document


def engine_differences(document: Mapping[str, Any], expected: Expected) -> Iterator[str]:
    """Where an engine's config.json contradicts the plan."""
    version = str(document.get("version"))
    try:
        matches = releases.same(version, expected.version)
    except ValueError:
        matches = False
    if not matches:
        yield f"the engine was built by TensorRT-LLM {version}, not {expected.version}"
    yield from _model_differences(_section(document, "pretrained_config"), expected)
    build = _section(document, "build_config")
    yield from _unequal(
        build,
        {
            "speculative_decoding_mode": expected.speculative_decoding_mode,
            "max_draft_len": expected.max_draft_len,
            "max_batch_size": expected.max_batch_size,
            "max_input_len": expected.max_input_len,
            "max_seq_len": expected.max_seq_len,
            "max_beam_width": 1,
            "gather_context_logits": False,
        },
    )
    cache = build.get("kv_cache_type")
    if str(cache).upper() != "PAGED":  # TensorRT-LLM reads any case, and releases differ in what they write
        yield f"kv_cache_type is {cache!r}, not 'PAGED'"
    tokens = build.get("max_num_tokens")
    if not isinstance(tokens, int) or tokens < expected.max_num_tokens:
        yield f"max_num_tokens is {tokens}, less than {expected.max_num_tokens}"
    plugins = _section(build, "plugin_config")
    yield from _unequal(
        plugins, {"use_paged_context_fmha": True, "tokens_per_block": expected.tokens_per_block}
    )


def _model_differences(model: Mapping[str, Any], expected: Expected) -> Iterator[str]:
    """What engine and TensorRT-LLM checkpoint both say about the model."""
    wanted = {"vocab_size": expected.vocab_size, "dtype": expected.dtype}
    yield from _unequal(model, wanted)
    sizes = {"tp_size": expected.tp_size, "pp_size": expected.pp_size}
    yield from _unequal({"tp_size": 1, "pp_size": 1, **_section(model, "mapping")}, sizes)
    formats = {"quant_algo": expected.quant_algo, "kv_cache_quant_algo": expected.kv_cache_quant_algo}
    yield from _unequal(_section(model, "quantization"), formats)


def _unequal(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name, value in wanted.items():
        if found.get(name) != value:
            yield f"{name} is {found.get(name)!r}, not {value!r}"


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}
