# SPDX-License-Identifier: Apache-2.0
"""Writes a repository: plan (pure), then stage beside it and rename.

The repository root may hold model folders only, since Triton exits on any other; plain files, like the
manifest, it ignores.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from specbuild import artifacts, resources
from specbuild.config import Config
from specbuild.errors import RepositoryError
from specbuild.repository import modelconfig
from specbuild.repository.modelconfig import ModelConfig

_FORMAT = 1
"""Raised when the written layout changes, so that older repositories are written again."""
_HEADER = "# Written by `specbuild repository`; change the deployment's configuration instead of this file.\n"
_VERSION = "1"


class Runtime(Protocol):
    """A module of this package that knows one runtime's models."""

    MODELS: tuple[str, ...]

    def engines(self, settings: Config) -> tuple[Path, ...]: ...

    def files(self, settings: Config) -> Mapping[str, Path]:
        """Path in the repository -> a file that is not one of the base models'."""

    def configure(self, models: dict[str, ModelConfig], settings: Config) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a repository will hold, before any of it is written."""

    configs: dict[str, str]
    """Model name -> text of its config.pbtxt."""
    sources: dict[str, Path]
    """Path in the repository -> the file that is copied there."""


def write(settings: Config) -> bool:
    """``settings.repository_dir`` is the deployment's repository; whether it had to be written.

    Raises RepositoryError when the engines are missing, and BuildError when it cannot be written.
    """
    runtime = _runtime(settings)
    engines = {folder.name: _engine_key(folder) for folder in runtime.engines(settings)}
    contents = plan(settings)
    final = settings.repository_dir
    key = artifacts.content_key(
        {
            "format": _FORMAT,
            "configs": contents.configs,
            "sources": {name: artifacts.sha256(path) for name, path in contents.sources.items()},
            "engines": engines,
        }
    )
    with artifacts.lock(final):
        if artifacts.is_current(final, key) and not artifacts.damage(final):
            return False
        facts = {"name": settings.name, "runtime": settings.runtime, "engines": engines}
        with artifacts.publish(final, key=key, facts=facts) as staging:
            _stage(contents, staging)
    return True


def plan(settings: Config) -> Plan:
    """What the deployment's repository holds; reads the base files and writes nothing."""
    runtime, base = _runtime(settings), resources.folder("model_repository")
    models = {name: modelconfig.read(base / name) for name in runtime.MODELS}
    runtime.configure(models, settings)
    sources = {
        path.relative_to(base).as_posix(): path
        for name in runtime.MODELS
        for path in sorted((base / name / _VERSION).glob("*.py"))
    }
    sources.update(runtime.files(settings))
    return Plan({name: modelconfig.render(message) for name, message in models.items()}, sources)


def _runtime(settings: Config) -> Runtime:
    return cast(Runtime, importlib.import_module(f"specbuild.repository.{settings.runtime}"))


def _engine_key(folder: Path) -> str:
    manifest = artifacts.read_manifest(folder)
    if manifest is None:
        raise RepositoryError(
            f"{folder} holds no engine", remedy="Build the engines first: `specbuild engines --config FILE`."
        )
    return manifest.key


def _stage(contents: Plan, staging: Path) -> None:
    for name, text in contents.configs.items():
        (staging / name / _VERSION).mkdir(parents=True)
        (staging / name / modelconfig.FILE).write_text(_HEADER + text, encoding="utf-8")
    for name, source in contents.sources.items():
        shutil.copyfile(source, staging / name)
