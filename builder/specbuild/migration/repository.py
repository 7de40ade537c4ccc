# SPDX-License-Identifier: Apache-2.0
"""From a Triton repository with two TensorRT engines back to the configuration that it stands for.

NVIDIA's inflight_batcher_llm layout of any generation (tensorrt_llm, tensorrt_llm_draft, tensorrt_llm_bls),
and specbuild's own, which has the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specbuild.engines.releases import image_with
from specbuild.errors import ConfigError, RepositoryError
from specbuild.migration import engine, parameters
from specbuild.migration.engine import Engine
from specbuild.migration.note import Migration, Note
from specbuild.repository import modelconfig
from specbuild.repository.modelconfig import FILE, ModelConfig

_TARGET, _DRAFT, _PREPROCESSING = "tensorrt_llm", "tensorrt_llm_draft", "preprocessing"
_BLS_KEYS = {_TARGET: "tensorrt_llm_model_name", _DRAFT: "tensorrt_llm_draft_model_name"}
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_RENAMED = {"random_seed": "seed", "min_length": "min_tokens"}
_DEFAULT_FRACTION = 0.9


@dataclass(frozen=True, slots=True)
class Hints:
    """What the user adds to what the repository says."""

    target: str | None = None
    """Checkpoint that the target engine was made from."""
    draft: str | None = None
    target_engine: Path | None = None
    """Where the engine is, when the repository's own path is another machine's."""
    draft_engine: Path | None = None


@dataclass(slots=True)
class _Recovery:
    """The repository's models, and the notes so far."""

    root: Path
    models: Mapping[str, ModelConfig]
    notes: list[Note] = field(default_factory=list)

    def parameters(self, model: str) -> dict[str, str]:
        """The parameters of ``model`` that are set; a placeholder inside quotes means that one is not."""
        if model not in self.models:
            return {}
        values = {key: value.string_value for key, value in self.models[model].parameters.items()}
        return {key: text for key, text in values.items() if text and not _PLACEHOLDER.search(text)}

    def note(self, note: Note) -> None:
        self.notes.append(note)


def recover(root: Path, hints: Hints) -> Migration:
    """The configuration of runtime tensorrt_llm that the repository ``root`` stands for.

    Raises RepositoryError when it is no repository with engines, ConfigError when a hint is missing.
    """
    found = _Recovery(root, _read(root))
    target, draft = _name(found, _TARGET), _name(found, _DRAFT, required=False)
    target_engine = _engine(found, target, hints.target_engine, option="--engine")
    draft_engine = _draft_engine(found, draft, hints.draft_engine)
    target_folder = hints.target_engine or _path(found, target)
    draft_folder = hints.draft_engine or (_path(found, draft) if draft else None)
    document: dict[str, Any] = {
        "name": _deployment_name(root),
        "runtime": "tensorrt_llm",
        "target": target_engine.model(_target_checkpoint(found, hints.target, target_folder)),
        "draft": _draft_section(draft_engine, _draft_checkpoint(hints.draft, draft_folder)),
        "speculation": {} if "speculative" in found.models else {"adaptive": False},
        "limits": _limits(found, target, target_engine),
        "kv_cache": _kv_cache(found, target, draft, target_engine),
        "tensorrt_llm": _release(target_engine),
        "output": f"build/{_deployment_name(root)}",
    }
    if target_engine.build_config.max_draft_len:
        document["speculation"]["draft_length"] = target_engine.build_config.max_draft_len
    if size := found.models[target].dynamic_batching.default_queue_policy.max_queue_size:
        document["serving"] = {"max_queue_size": size}
    arguments, notes = parameters.arguments(found.parameters(target))
    found.notes += notes
    if arguments:
        document["llmapi"] = {"arguments": arguments}
    _note_losses(found, target, draft, target_engine)
    return Migration(document, tuple(found.notes))


def _read(root: Path) -> dict[str, ModelConfig]:
    """Every model's config.pbtxt, by folder name."""
    files = sorted(root.glob(f"*/{FILE}"))
    if not files:
        raise RepositoryError(
            f"{root} holds no model: there is no */{FILE}",
            remedy="Name a Triton model repository, or a specbuild configuration file.",
        )
    return {file.parent.name: _parse(file) for file in files}


def _parse(file: Path) -> ModelConfig:
    try:
        text = file.read_text(encoding="utf-8")
        return modelconfig.parse(text)
    except OSError as error:
        raise RepositoryError(
            f"cannot read {file}: {error.strerror}", remedy="Check the file's permissions."
        ) from None
    except ValueError as error:
        unfilled = _PLACEHOLDER.findall(_QUOTED.sub("", text)) if not isinstance(error, UnicodeError) else []
        if unfilled:
            raise RepositoryError(
                f"{file} is a template: {', '.join(dict.fromkeys(unfilled))} not filled in",
                remedy="Fill the template (NVIDIA's tools/fill_template.py), or name the repository in use.",
            ) from None
        raise RepositoryError(f"{file}: {error}", remedy="Correct the file; Triton refuses it too.") from None


def _name(found: _Recovery, default: str, *, required: bool = True) -> str:
    """The model that plays the part of ``default``; the BLS model may call it something else."""
    named = [found.parameters(model).get(_BLS_KEYS[default]) for model in found.models]
    name = next((name for name in named if name), default)
    if name in found.models:
        return name
    if not required:
        return ""
    if any((found.root / model / "1" / "model.yaml").exists() for model in found.models):
        raise RepositoryError(f"{found.root} uses the LLM API already", remedy="Nothing has to be done.")
    raise RepositoryError(
        f"{found.root} has no model {name} with a TensorRT engine",
        remedy=f"It holds {', '.join(found.models)}; name a repository in NVIDIA's or specbuild's layout.",
    )


def _path(found: _Recovery, model: str) -> Path | None:
    text = found.parameters(model).get("gpt_model_path")
    return Path(text) if text else None


def _engine(found: _Recovery, model: str, given: Path | None, *, option: str) -> Engine:
    folder = given or _path(found, model)
    if folder is None or not folder.is_dir():
        where = f"{folder}, which is not on this machine" if folder else "unknown: gpt_model_path is not set"
        raise ConfigError(f"the engine of {model} is {where}", remedy=f"Say where it is with {option} DIR.")
    return engine.read(folder)


def _draft_engine(found: _Recovery, model: str, given: Path | None) -> Engine | None:
    folder = given or _path(found, model)
    if folder is not None and folder.is_dir():
        return engine.read(folder)
    reason = "Its type and quantization were not read; say where it is with --draft-engine DIR."
    found.note(Note("lost", "draft engine", str(folder or "unknown"), reason))
    return None


def _draft_section(found: Engine | None, checkpoint: str) -> dict[str, Any]:
    return found.model(checkpoint) if found else {"checkpoint": checkpoint}


def _target_checkpoint(found: _Recovery, given: str | None, folder: Path | None) -> str:
    """The checkpoint: as given, as specbuild's manifest has it, or where preprocessing has its tokenizer."""
    known = given or (engine.checkpoint_of(folder) if folder else None)
    if known:
        return known
    tokenizer = found.parameters(_PREPROCESSING).get("tokenizer_dir")
    if tokenizer and (Path(tokenizer) / "config.json").is_file():
        reason = "The folder of preprocessing's tokenizer: see that the weights are there, or use --target."
        found.note(Note("changed", "target.checkpoint", f"engine → {tokenizer}", reason))
        return tokenizer
    raise _unknown_checkpoint("target")


def _draft_checkpoint(given: str | None, folder: Path | None) -> str:
    known = given or (engine.checkpoint_of(folder) if folder else None)
    if not known:
        raise _unknown_checkpoint("draft")
    return known


def _unknown_checkpoint(role: str) -> ConfigError:
    return ConfigError(
        f"nothing says which checkpoint the {role} engine was made from, and the LLM API loads checkpoints",
        remedy=f"Name it: --{role} meta-llama/Llama-3.2-1B-Instruct (a hub id or a folder).",
    )


def _limits(found: _Recovery, target: str, built: Engine) -> dict[str, int]:
    build = built.build_config
    batch = found.models[target].max_batch_size or build.max_batch_size
    longest = build.max_input_len
    if longest >= built.max_seq_len:
        longest = built.max_seq_len - 1
        reason = "The engine's inputs are prompt and text so far; the LLM API counts the prompt alone."
        found.note(Note("changed", "limits.max_input_len", f"{build.max_input_len} → {longest}", reason))
    if build.max_num_tokens:
        reason = "Chosen by specbuild; llmapi.arguments.max_num_tokens sets it."
        found.note(Note("lost", "engine/max_num_tokens", str(build.max_num_tokens), reason))
    return {
        "max_batch_size": min(batch, build.max_batch_size),
        "max_input_len": longest,
        "max_seq_len": built.max_seq_len,
    }


def _kv_cache(found: _Recovery, target: str, draft: str, built: Engine) -> dict[str, Any]:
    section: dict[str, Any] = {"free_gpu_memory_fraction": _fraction(found, target, draft)}
    reuse = found.parameters(target).get("enable_kv_cache_reuse")
    if reuse is not None:
        section["reuse"] = parameters.truth(reuse)
    algorithm = (built.pretrained_config.quantization.kv_cache_quant_algo or "").lower()
    if algorithm in {"fp8", "int8"}:
        section["dtype"] = algorithm
    return section


def _fraction(found: _Recovery, target: str, draft: str) -> float:
    """One budget out of two: the second model to load took its share of what the first had left."""
    key = "kv_cache_free_gpu_mem_fraction"
    texts = [found.parameters(model).get(key) for model in (target, draft)]
    shares = [float(text) for text in texts if text and re.fullmatch(r"0?\.\d+", text)]
    left = 1.0
    for share in shares:
        left *= 1 - share
    fraction = min(round(1 - left, 2), _DEFAULT_FRACTION) if shares else _DEFAULT_FRACTION
    if len(shares) > 1:
        reason = "One budget for both models' caches."
        spelled = f"{shares[0]} and {shares[1]} → {fraction}"
        found.note(Note("changed", f"{target}, {draft}/{key}", spelled, reason))
    return fraction


def _release(built: Engine) -> dict[str, str]:
    match = re.match(r"\d+\.\d+\.\d+(rc\d+)?", built.version)
    if match is None:
        raise ConfigError(
            f"the engine was built by TensorRT-LLM {built.version!r:.60}, which is no version",
            remedy="Name the folder of an engine that trtllm-build wrote.",
        )
    return {"version": match.group(), "image": image_with(match.group())}


def _note_losses(found: _Recovery, target: str, draft: str, built: Engine) -> None:
    if built.unknown_algorithm:
        reason = (
            "The configuration has no name for this format; the weights stay as they are in the checkpoint."
        )
        found.note(Note("lost", "engine/quant_algo", built.unknown_algorithm, reason))
    if built.build_config.max_beam_width > 1:
        reason = "Speculation has one beam."
        found.note(Note("lost", "engine/max_beam_width", str(built.build_config.max_beam_width), reason))
    for key, value in built.not_carried():
        reason = "The LLM API has it per request, or not at all."
        found.note(Note("lost", f"engine/{key}", str(value).lower(), reason))
    found.notes += parameters.losses({name: found.parameters(name) for name in (target, draft) if name})
    devices = [found.parameters(model).get("gpu_device_ids") for model in (target, draft)]
    if any(devices):
        reason = "Both models run on the same GPUs; choose them with CUDA_VISIBLE_DEVICES."
        found.note(Note("lost", "gpu_device_ids", " and ".join(text or "all" for text in devices), reason))
    _note_interface(found, target)


def _note_interface(found: _Recovery, target: str) -> None:
    names = {tensor.name for model in found.models.values() for tensor in model.input}
    for old, new in _RENAMED.items():
        if old in names and new not in names:
            reason = "Renamed after tensorrtllm_backend 0.19; clients must follow."
            found.note(Note("changed", f"input {old}", f"{old} → {new}", reason))
    bls = [name for name in found.models if found.parameters(name).get(_BLS_KEYS[_DRAFT])]
    for name in bls:
        reason = "Clients call `ensemble`, which speculates; its tensors keep NVIDIA's names."
        found.note(Note("changed", "front model", f"{name} → ensemble", reason))


def _deployment_name(root: Path) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9._-]+|\.\.+", "-", root.resolve().name).strip("-._")
    return cleaned[:40] or "migrated"
