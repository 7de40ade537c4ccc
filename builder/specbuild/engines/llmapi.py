# SPDX-License-Identifier: Apache-2.0
"""What the llmapi runtime serves: model.yaml, and quantised checkpoints where they are asked for.

There are no engines: the LLM API loads Hugging Face checkpoints. What is not quantised is used where it
lies, so ``model.yaml`` depends on those folders.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.text import Text

import specbuild
from specbuild import artifacts, pairing, progress
from specbuild.checkpoint import Checkpoint
from specbuild.config import Config, Model
from specbuild.engines import execution, gpus, launch, llmapi_quantize
from specbuild.engines.launch import Docker, Launcher
from specbuild.engines.llmapi_arguments import model_yaml
from specbuild.engines.llmapi_versions import Dialect, dialect
from specbuild.engines.plan import Preview, Step, shell_line
from specbuild.engines.quantization import FORMATS
from specbuild.errors import BuildError, MissingDependencyError
from specbuild.pairing.finding import ModelName
from specbuild.progress import Report

MODEL_YAML = "model.yaml"
_FORMAT = 1
"""Raised when the written layout changes, so that older output is made again."""
_FOLDER = "llmapi"


@dataclass(frozen=True, slots=True)
class _Build:
    """One run: what is to be done, with what."""

    settings: Config
    dialect: Dialect
    checkpoints: Mapping[ModelName, Checkpoint]
    steps: tuple[Step, ...]
    launcher: Launcher | None
    """None when nothing is to be run."""

    def folder(self, role: ModelName) -> Path:
        """The checkpoint that is served for ``role``."""
        made = {step.model: step.folder for step in self.steps}
        return made.get(role, self.checkpoints[role].folder.absolute())


def build(settings: Config, report: Report) -> None:
    """``settings.engines_dir`` holds ``llmapi/model.yaml``, and ``target/`` and ``draft/`` if quantised.

    What is unchanged is not made again. Raises PairError when the pair cannot work,
    MissingDependencyError when nothing here can quantise, and BuildError.
    """
    prepared = _prepare(settings, required=True)
    final = settings.engines_dir / _FOLDER
    with contextlib.ExitStack() as locks:
        for folder in [*(step.folder for step in prepared.steps), final]:
            locks.enter_context(artifacts.lock(folder))
        pending = [step for step in prepared.steps if not artifacts.is_current(step.folder, step.key)]
        for index, step in enumerate(pending, 1):
            _perform(step, prepared, f"{step.name} ({index} of {len(pending)})", report)
        written = _write(prepared, final)
    outcomes = [f"{step.model} {'quantised' if step in pending else 'unchanged'}" for step in prepared.steps]
    report(", ".join([*outcomes, f"{MODEL_YAML} {'written' if written else 'unchanged'}"]))


def preview(settings: Config) -> Preview:
    """The commands that ``build`` would run if nothing were there yet, and the file it would write."""
    prepared = _prepare(settings, required=False)
    lines = [f"# {prepared.launcher.description}" if prepared.launcher else "# nothing has to be run"]
    for step in prepared.steps:
        assert prepared.launcher is not None
        lines += ["", f"# {step.name}", shell_line(["mkdir", "-p", str(step.folder)], {})]
        lines.append(shell_line(prepared.launcher.command(step), prepared.launcher.environment(step)))
    final = settings.engines_dir / _FOLDER / MODEL_YAML
    text = _text(_document(prepared), prepared.dialect)
    lines += ["", f"# {final}", *(f"# {line}".rstrip() for line in text.splitlines())]
    document = {"steps": [step.document() for step in prepared.steps], MODEL_YAML: _document(prepared)}
    return Preview(document, "\n".join(lines))


def _prepare(settings: Config, *, required: bool) -> _Build:
    spelling = dialect(settings.tensorrt_llm.version)
    target, draft = pairing.require(settings)
    checkpoints: dict[ModelName, Checkpoint] = {"target": target, "draft": draft}
    options: dict[ModelName, Model] = {"target": settings.target, "draft": settings.draft}
    roles = [role for role, model in options.items() if model.quantization is not None]
    if not roles:
        return _Build(settings, spelling, checkpoints, (), None)
    script = llmapi_quantize.find_script(settings, required=required)
    launcher = _launcher(settings, required=required)
    program = (launcher.tools.python, script)
    steps = (llmapi_quantize.step(role, checkpoints[role], settings, program) for role in roles)
    return _Build(settings, spelling, checkpoints, tuple(steps), launcher)


def _launcher(settings: Config, *, required: bool) -> Launcher:
    """Here when TensorRT-LLM (and so ModelOpt) is installed, else in the image. Converters are not needed."""
    launcher = launch.choose(settings, required=False)
    if required and isinstance(launcher, Docker) and shutil.which(launcher.program) is None:
        raise MissingDependencyError(
            "quantising needs TensorRT-LLM on this machine, or docker; there is neither",
            remedy="Run where TensorRT-LLM is installed, install docker with the NVIDIA Container Toolkit, "
            "or name a checkpoint that is quantised already and set quantization: null.",
        )
    return launcher


def _perform(step: Step, prepared: _Build, title: str, report: Report) -> None:
    """Quantise into a staging folder, check that a complete checkpoint came out, and publish it."""
    assert prepared.launcher is not None
    if not gpus.detect():
        raise BuildError(
            "nvidia-smi lists no GPU, and ModelOpt calibrates on one",
            remedy="Quantise on a machine with a GPU, or name a checkpoint that is quantised already.",
        )
    start = time.monotonic()
    log = prepared.settings.logs_dir / f"engines-{step.name}.log"
    report(title)
    facts = {"step": step.document(), "specbuild": specbuild.__version__}
    with artifacts.publish(step.folder, key=step.key, facts=facts) as staging:
        staged = step.relocated(staging)
        execution.run(staged, prepared.launcher, log, execution.ticker(title, report))
        report(f"{title}: verifying and hashing")
        _require_complete(staged)
    progress.console.print(Text(f"✓ {title}  {time.monotonic() - start:.1f} s  {log}"), soft_wrap=True)


def _require_complete(step: Step) -> None:
    missing = [path.name for path in step.outputs if not path.is_file()]
    if missing:
        raise BuildError(
            f"{step.name} ended without error but did not write {' and '.join(missing)}",
            remedy="Does this release of Model-Optimizer export Hugging Face checkpoints for the model?",
        )
    Checkpoint.open(step.folder)


def _write(prepared: _Build, final: Path) -> bool:
    """Write model.yaml unless it is current; whether it was written."""
    document = _document(prepared)
    sources = {role: checkpoint.content_digest() for role, checkpoint in prepared.checkpoints.items()}
    key = artifacts.content_key(
        {
            "format": _FORMAT,
            "model.yaml": document,
            "sources": sources,
            "steps": [step.key for step in prepared.steps],
        }
    )
    if artifacts.is_current(final, key):
        return False
    facts = {
        "specbuild": specbuild.__version__,
        "tensorrt_llm": prepared.settings.tensorrt_llm.version,
        "checkpoints": {role: str(prepared.folder(role)) for role in prepared.checkpoints},
        "checkpoint_digests": sources,
    }
    with artifacts.publish(final, key=key, facts=facts) as staging:
        (staging / MODEL_YAML).write_text(_text(document, prepared.dialect), encoding="utf-8")
    return True


def _document(prepared: _Build) -> dict[str, Any]:
    return model_yaml(
        prepared.settings,
        prepared.dialect,
        target=str(prepared.folder("target")),
        draft=str(prepared.folder("draft")),
        cost_ratio=_cost_ratio(prepared),
    )


def _cost_ratio(prepared: _Build) -> float:
    """Bytes read for one draft token over those of one target step; both have the same GPUs."""
    return _bytes(prepared, "draft") / _bytes(prepared, "target")


def _bytes(prepared: _Build, role: ModelName) -> float:
    weights = prepared.checkpoints[role].weights
    options = prepared.settings.target if role == "target" else prepared.settings.draft
    if options.quantization is None:
        return weights.nbytes
    return weights.parameters * FORMATS[options.quantization].bits / 8


def _text(document: Mapping[str, Any], spelling: Dialect) -> str:
    head = f"# Arguments of tensorrt_llm.LLM, as TensorRT-LLM {spelling.name} spells them.\n"
    return head + yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
