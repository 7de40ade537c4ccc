# SPDX-License-Identifier: Apache-2.0
"""From a configuration of runtime tensorrt_llm to one of runtime llmapi. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from specbuild import config
from specbuild.config import Config
from specbuild.engines import modelopt
from specbuild.engines.llmapi_versions import Dialect, dialect
from specbuild.engines.releases import RECOMMENDED, Release, image_with
from specbuild.errors import ConfigError
from specbuild.migration.note import Kind, Migration, Note

_SUFFIX = "-llmapi"
_NAME_LENGTH = 64


class _Draft:
    """A document being rewritten, and the notes about it so far."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = copy.deepcopy(dict(document))
        self.notes: list[Note] = []

    def get(self, key: str) -> Any:
        section: Any = self.document
        for part in key.split("."):
            section = section.get(part) if isinstance(section, Mapping) else None
        return section

    def put(self, key: str, value: Any, reason: str, *, kind: Kind = "changed") -> None:
        """Replace ``key``, or remove it with None, and say why."""
        old, (*path, last) = self.get(key), key.split(".")
        section = self.document
        for part in path:
            section = section.setdefault(part, {})
        if value is None:
            section.pop(last, None)
        else:
            section[last] = value
        shown = f"{_spell(old)} → {_spell(value)}" if kind == "changed" else _spell(old)
        self.notes.append(Note(kind, key, shown, reason))


def translate(settings: Config, *, before: tuple[Note, ...] = ()) -> Migration:
    """``settings`` for the LLM API. ``before`` are notes about how ``settings`` came about; they stay first.

    Only what is written in the file is carried, defaults stay defaults. Raises ConfigError when
    ``settings`` are of another runtime.
    """
    if settings.runtime != "tensorrt_llm":
        raise ConfigError(
            f"{settings.name} is of runtime {settings.runtime}: only tensorrt_llm has engines to leave",
            remedy="Set runtime: llmapi in a copy of the file; every other key keeps its meaning."
            if settings.runtime == "torch"
            else "Nothing has to be done.",
        )
    draft = _Draft(settings.model_dump(mode="json", exclude_unset=True))
    _place(draft, settings)
    spelling = _version(draft, settings)
    _parallelism(draft, settings)
    _formats(draft, settings)
    _speculation(draft, settings, spelling)
    _tools(draft, settings)
    touched = {note.setting for note in (*before, *draft.notes)}
    carried = tuple(
        Note("carried", key, _spell(value), "")
        for key, value in _leaves(draft.document)
        # Arguments that came from a repository have notes of their own.
        if key not in touched and not (before and key.startswith("llmapi.arguments."))
    )
    config.validate(draft.document, source="the migrated configuration")
    return Migration(draft.document, (*before, *carried, *draft.notes))


def _place(draft: _Draft, settings: Config) -> None:
    draft.put("runtime", "llmapi", "TensorRT-LLM loads the checkpoints itself and speculates in one process.")
    name = settings.name[: _NAME_LENGTH - len(_SUFFIX)] + _SUFFIX
    draft.put("name", name, "Both deployments can exist side by side.")
    output = settings.output.with_name(settings.output.name + _SUFFIX)
    draft.put("output", str(output), f"The engines in {settings.output} stay as they are.")


def _version(draft: _Draft, settings: Config) -> Dialect:
    version = settings.tensorrt_llm.version
    if Release.parse(version) < Release.parse("1.0.0rc0"):
        reason = (
            f"The LLM API of {version} is not supported; {RECOMMENDED} has both, engines and the LLM API."
        )
        draft.put("tensorrt_llm.version", RECOMMENDED, reason)
        draft.put("tensorrt_llm.image", image_with(RECOMMENDED), "It holds that version.")
        version = RECOMMENDED
    return dialect(version)


def _parallelism(draft: _Draft, settings: Config) -> None:
    target = settings.target
    if target.pp_size > 1:
        size = target.tp_size * target.pp_size
        draft.put("target.tp_size", size, "As many GPUs, without pipeline parallelism.")
        reason = "The LLM API does not speculate under pipeline parallelism."
        draft.put("target.pp_size", 1, reason)
    for key in ("tp_size", "pp_size"):
        if draft.get(f"draft.{key}") is not None:
            draft.put(f"draft.{key}", None, "The draft is split as the target is.", kind="lost")


def _formats(draft: _Draft, settings: Config) -> None:
    for role, model in (("target", settings.target), ("draft", settings.draft)):
        wanted = model.quantization
        if wanted is not None and wanted not in modelopt.FORMATS:
            choices = ", ".join(modelopt.FORMATS)
            reason = f"ModelOpt exports no such checkpoint; weights stay in 16 bits. Choose one of {choices}."
            draft.put(f"{role}.quantization", None, reason, kind="lost")
        elif wanted is not None:
            reason = "ModelOpt's hf_ptq.py makes it: set tensorrt_llm.model_optimizer_dir to a checkout."
            draft.notes.append(Note("changed", f"{role}.quantization", wanted, reason))
    if settings.kv_cache.dtype == "int8":
        draft.put("kv_cache.dtype", "auto", "The LLM API has no INT8 KV cache; fp8 halves it as well.")


def _speculation(draft: _Draft, settings: Config, spelling: Dialect) -> None:
    speculation = settings.speculation
    if speculation.acceptance == "logits" and spelling.rejection_sampling is None:
        reason = f"The LLM API of TensorRT-LLM {spelling.name} compares tokens only."
        draft.put("speculation.acceptance", "exact", reason)
    length = "Every request drafts speculation.draft_length tokens."
    draft.notes.append(Note("lost", "num_draft_tokens of a request", "any up to the limit", length))
    if speculation.adaptive:
        draft.notes.append(_adaptive(spelling))


def _adaptive(spelling: Dialect) -> Note:
    if spelling.acceptance_stop is None:
        reason = f"TensorRT-LLM {spelling.name} drafts the same length whatever is accepted."
        return Note("lost", "speculation.adaptive", "true", reason)
    reason = (
        f"{spelling.acceptance_stop.threshold}: speculation ends for good when acceptance stays too low "
        "to pay; it is neither shortened nor resumed."
    )
    return Note("changed", "speculation.adaptive", "true", reason)


def _tools(draft: _Draft, settings: Config) -> None:
    if settings.tensorrt_llm.examples_dir is not None:
        unused = "Nothing is converted or built any more."
        draft.put("tensorrt_llm.examples_dir", None, unused, kind="lost")
    dataset = settings.tensorrt_llm.calibration_dataset
    if dataset not in modelopt.DATASETS:
        reason = "hf_ptq.py calibrates on data sets that it knows by name."
        draft.put("tensorrt_llm.calibration_dataset", None, reason)


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _spell(value: Any) -> str:
    special: dict[Any, str] = {None: "unset", True: "true", False: "false"}
    return special[value] if value is None or isinstance(value, bool) else str(value)
