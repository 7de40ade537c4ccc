# SPDX-License-Identifier: Apache-2.0
"""Engines of the tensorrt_llm runtime: plan, run what is not there yet, verify, publish."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

import specbuild
from specbuild import artifacts, pairing, progress
from specbuild.checkpoint import Checkpoint, digest
from specbuild.config import Config
from specbuild.engines import disk, execution, gpus, launch, readback, steps, unchanged
from specbuild.engines.gpus import Gpu
from specbuild.engines.launch import Launcher
from specbuild.engines.plan import Plan, Preview, Step, shell_line
from specbuild.engines.steps import Source
from specbuild.errors import BuildError
from specbuild.pairing.finding import ModelName
from specbuild.progress import Report


@dataclass(frozen=True, slots=True)
class _Build:
    """One run: what is to be done, with what, on what."""

    settings: Config
    checkpoints: Mapping[ModelName, Checkpoint]
    sources: Mapping[ModelName, Source]
    plan: Plan
    launcher: Launcher
    devices: tuple[Gpu, ...]


def build(settings: Config, report: Report) -> None:
    """``settings.engines_dir`` holds ``target/`` and ``draft/``: engines that match the plan.

    Steps whose key is unchanged are not run. Raises PairError when the pair cannot work,
    MissingDependencyError without TensorRT-LLM and docker, BuildError when a step fails.
    """
    mark = unchanged.fingerprint(settings, gpus.common_capability(gpus.detect()))
    if unchanged.is_known(settings, mark):
        report("target unchanged, draft unchanged")
        return
    prepared = _prepare(settings, required=True)
    with contextlib.ExitStack() as locks:
        for role in prepared.sources:
            locks.enter_context(artifacts.lock(settings.engines_dir / role))
        pending = _pending(prepared.plan)
        if pending:
            _require_device(prepared.devices)
            disk.require(pending, settings, prepared.sources)
        for index, step in enumerate(pending, 1):
            _perform(step, prepared, f"{step.name} ({index} of {len(pending)})", report)
        unchanged.remember(
            settings, mark, {role: prepared.plan.of(role)[-1].key for role in prepared.sources}
        )
    built = {step.model for step in pending}
    report(", ".join(f"{role} {'built' if role in built else 'unchanged'}" for role in prepared.sources))


def preview(settings: Config) -> Preview:
    """What ``build`` would run if nothing were there yet; nothing is run or written."""
    prepared = _prepare(settings, required=False)
    lines = [f"# {prepared.launcher.description}"]
    if gpus.common_capability(prepared.devices) is None:
        lines.append("# no GPU found here: keys are those of an unknown one")
    for step in prepared.plan.steps:
        lines += ["", f"# {step.name}", shell_line(["mkdir", "-p", str(step.folder)], {})]
        lines.append(shell_line(prepared.launcher.command(step), prepared.launcher.environment(step)))
    return Preview(prepared.plan.document(), "\n".join(lines))


def _prepare(settings: Config, *, required: bool) -> _Build:
    target, draft = pairing.require(settings)
    checkpoints: dict[ModelName, Checkpoint] = {"target": target, "draft": draft}
    launcher = launch.choose(settings, required=required)
    devices = gpus.detect()
    sources = {role: _source(checkpoint) for role, checkpoint in checkpoints.items()}
    capability, calibration = gpus.common_capability(devices), _calibration_digest(settings)
    plan = steps.plan(settings, sources, launcher.tools, capability, calibration=calibration)
    return _Build(settings, checkpoints, sources, plan, launcher, devices)


def _source(checkpoint: Checkpoint) -> Source:
    folder = checkpoint.folder.absolute()
    resolved = folder.resolve()
    if resolved.parent.name == "snapshots":
        folder = resolved  # links inside the Hugging Face cache are relative to the snapshot itself
    return Source(
        folder=folder,
        model_type=checkpoint.config.model_type,
        dtype=checkpoint.dtype,
        vocab_size=checkpoint.config.vocab_size,
        hidden_size=checkpoint.config.hidden_size,
        parameters=checkpoint.weights.parameters,
        digest=checkpoint.content_digest(),
    )


def _calibration_digest(settings: Config) -> str | None:
    """A sha256 over the calibration data; None when it is downloaded, or not needed and not there."""
    folder = steps.calibration_folder(settings)
    if folder is None or not folder.is_dir():
        return None
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return digest.of_files(folder, files)


def _pending(plan: Plan) -> list[Step]:
    """The steps to run, in order: an engine that is current needs no checkpoint of its own any more."""
    pending: list[Step] = []
    for role in plan.expected:
        needed = []
        for step in reversed(plan.of(role)):
            if artifacts.is_current(step.folder, step.key):
                break
            needed.append(step)
        pending += reversed(needed)
    return pending


def _require_device(devices: Sequence[Gpu]) -> None:
    if not devices:
        raise BuildError(
            "nvidia-smi lists no GPU: engines are built on the kind of GPU that runs them",
            remedy="Build on a machine with the GPU, or look at the commands with --dry-run.",
        )
    if gpus.common_capability(devices) is None:
        raise BuildError(
            "the GPUs differ in compute capability: "
            + ", ".join(f"{gpu.name} {gpu.capability_text}" for gpu in devices),
            remedy="Choose GPUs of one kind with the environment variable CUDA_VISIBLE_DEVICES=0,1,...",
        )


def _perform(step: Step, prepared: _Build, title: str, report: Report) -> None:
    """Run ``step`` into a staging folder, verify what it wrote, and publish it."""
    start = time.monotonic()
    log = prepared.settings.logs_dir / f"engines-{step.name}.log"
    report(title)
    with artifacts.publish(step.folder, key=step.key, facts=_facts(step, prepared)) as staging:
        staged = step.relocated(staging)
        execution.run(staged, prepared.launcher, log, execution.ticker(title, report))
        report(f"{title}: verifying and hashing")
        readback.require(staged, prepared.plan.expected[step.model])
        if step is prepared.plan.of(step.model)[-1]:
            _add_tokenizer(prepared.checkpoints[step.model], staging / "tokenizer")
    progress.console.print(Text(f"✓ {title}  {time.monotonic() - start:.1f} s  {log}"), soft_wrap=True)


def _add_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """What serving needs besides the engine, so that it does not depend on the checkpoint."""
    folder.mkdir()
    for name in set(checkpoint.files) - set(checkpoint.weights.files):
        if not name.endswith(".safetensors.index.json"):
            shutil.copyfile(checkpoint.folder / name, folder / name)


def _facts(step: Step, prepared: _Build) -> dict[str, Any]:
    source = prepared.sources[step.model]
    facts = {
        "step": step.document(),
        "specbuild": specbuild.__version__,
        "tensorrt_llm": prepared.settings.tensorrt_llm.version,
        "where": prepared.launcher.description,
        "gpus": [
            {"name": gpu.name, "compute_capability": gpu.capability_text, "memory_bytes": gpu.memory_bytes}
            for gpu in prepared.devices
        ],
        "driver": prepared.devices[0].driver,
        "checkpoint": str(source.folder),
        "checkpoint_digest": source.digest,
        "expected": asdict(prepared.plan.expected[step.model]),
    }
    return dict(json.loads(json.dumps(facts)))
