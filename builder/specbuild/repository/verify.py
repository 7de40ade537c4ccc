# SPDX-License-Identifier: Apache-2.0
"""Checks a repository for what stops Triton, and for what Triton accepts and should not."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from specbuild import artifacts
from specbuild.config import NAME_PATTERN
from specbuild.errors import RepositoryError
from specbuild.repository import modelconfig
from specbuild.repository.engine_rules import check_engines
from specbuild.repository.finding import Finding
from specbuild.repository.modelconfig import ModelConfig
from specbuild.repository.wiring import check_ensemble

log = logging.getLogger(__name__)

_CHANGED = "file-damaged"
_WRITE_FIRST = "Write it first: `specbuild repository --config FILE`."
_REWRITE = "Write the repository again: `specbuild repository --config FILE`."
_PLACEHOLDER = re.compile(r"\$\{[^}\n]*\}")
_PATH_PARAMETERS = ("tokenizer_dir", "target_dir", "draft_dir", "gpt_model_path")
_SCRIPTS = {"python": "model.py"}


def verify(root: Path) -> list[Finding]:
    """Every finding about the repository at ``root``; empty when Triton can serve it as it is meant."""
    if not root.is_dir():
        return [Finding("repository-missing", str(root), "is not a folder", _WRITE_FIRST)]
    findings = list(_links(root))
    models: dict[str, ModelConfig] = {}
    unread: list[str] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        message, found = _model(folder)
        findings += found
        if message is not None:
            models[folder.name] = message
        else:
            unread.append(folder.name)
    if not models and not findings:
        findings.append(
            Finding("repository-missing", str(root), "holds no model", "Name a model repository.")
        )
    for message in models.values():
        if message.platform == "ensemble":
            findings += check_ensemble(message, models, unread)
    findings += check_engines(models)
    return findings + _damage(root)


def require(root: Path) -> None:
    """Raise RepositoryError with all that ``verify`` finds.

    Files that were changed after they were written are only warned of: a config.pbtxt may be tuned by hand.
    """
    findings = verify(root)
    for finding in findings:
        if finding.code == _CHANGED:
            log.warning("%s", finding.reason)
    errors = [finding for finding in findings if finding.code != _CHANGED]
    if errors:
        listed = "; ".join(f"{error.subject}: {error.reason} ({error.code})" for error in errors)
        raise RepositoryError(
            listed,
            remedy=f"{errors[0].remedy} `specbuild repository --verify {root}` lists all findings.",
        )


def _links(root: Path) -> Iterator[Finding]:
    inside = root.resolve()
    for path in sorted(root.rglob("*")):
        if not path.is_symlink():
            continue
        end = Path(os.path.realpath(path))  # unlike Path.resolve it does not raise on a loop of links
        if not end.is_relative_to(inside):
            yield Finding(
                "link-outside",
                path.relative_to(root).parts[0],
                f"{path.relative_to(root)} is a link to {end}",
                "Replace the link by a copy.",
            )


def _model(folder: Path) -> tuple[ModelConfig | None, list[Finding]]:
    """The configuration of one model folder as far as it can be read, and what is wrong with it."""
    name = folder.name
    if name.startswith(".") or not (folder / modelconfig.FILE).exists():
        if _looks_like_model(folder):
            return None, [Finding("config-missing", name, f"there is no {modelconfig.FILE}", _REWRITE)]
        return None, [
            Finding("stray-folder", name, f"{name}/ is not a model", "Move it out of the repository.")
        ]
    findings = []
    if not re.match(NAME_PATTERN, name) or ".." in name:
        findings.append(
            Finding("name-invalid", name, f"{name!r} does not match {NAME_PATTERN}", "Rename the model.")
        )
    message, found = _configuration(folder)
    findings += found
    if message is not None:
        findings += [*_versions(folder, message), *_parameters(message)]
    return message, findings


def _looks_like_model(folder: Path) -> bool:
    return not folder.name.startswith(".") and any(_version_folders(folder))


def _configuration(folder: Path) -> tuple[ModelConfig | None, list[Finding]]:
    name = folder.name
    try:
        text = (folder / modelconfig.FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return None, [Finding("config-unparsable", name, f"cannot be read: {error}", _REWRITE)]
    findings = list(_placeholders(name, text))
    try:
        message = modelconfig.parse(text)
    except ValueError as error:
        return None, findings or [Finding("config-unparsable", name, str(error), _REWRITE)]
    if not message.ListFields():  # comments alone are nothing to Triton either
        return None, [Finding("config-empty", name, "config.pbtxt is empty", _REWRITE)]
    if message.name not in ("", name):
        findings.append(
            Finding("name-differs", name, f"config.pbtxt says {message.name!r}", "Make them equal.")
        )
    if not (message.backend or message.platform):
        reason = "config.pbtxt names neither a backend nor a platform"
        findings.append(Finding("backend-missing", name, reason, _REWRITE))
    message.name = message.name or name  # as Triton does
    return message, findings


def _placeholders(name: str, text: str) -> Iterator[Finding]:
    """Those outside quotes, which Triton cannot read, one by one; those that stand for a value, together."""
    quoted = list(dict.fromkeys(_PLACEHOLDER.findall("".join(re.findall(r'"[^"\n]*"', text)))))
    for placeholder in dict.fromkeys(_PLACEHOLDER.findall(text)):
        if placeholder not in quoted:
            reason = f"{placeholder} was never filled in, where Triton needs a value"
            yield Finding("config-placeholder", name, reason, "Fill in the template.")
    if quoted:
        reason = f"never filled in: {', '.join(quoted)}; NVIDIA's models take that for not set, others do not"
        yield Finding("config-placeholder", name, reason, "Fill in the template, or remove the parameters.")


def _versions(folder: Path, message: ModelConfig) -> Iterator[Finding]:
    versions = list(_version_folders(folder))
    if not versions:
        yield Finding("version-missing", folder.name, "there is no version folder such as 1/", _REWRITE)
    script = message.default_model_filename or _SCRIPTS.get(message.backend)
    for version in versions:
        if script and not (version / script).is_file():
            yield Finding("file-missing", folder.name, f"{version.name}/{script} is missing", _REWRITE)


def _version_folders(folder: Path) -> Iterator[Path]:
    """The folders that Triton takes for versions: positive numbers without leading zeros."""
    return (path for path in sorted(folder.glob("[1-9]*")) if path.is_dir() and path.name.isdecimal())


def _parameters(message: ModelConfig) -> Iterator[Finding]:
    for key in _PATH_PARAMETERS:
        value = message.parameters[key].string_value if key in message.parameters else None
        if value is None or _PLACEHOLDER.search(value):
            continue
        if not value:
            yield Finding("parameter-unset", message.name, f"the parameter {key} is empty", _REWRITE)
        elif not Path(value).is_dir():
            yield Finding(
                "path-missing", message.name, f"{key}: there is no folder {value}", "Build the engines again."
            )


def _damage(root: Path) -> list[Finding]:
    """Differences to the manifest; a repository that specbuild did not write has none."""
    if artifacts.read_manifest(root) is None:
        return []
    return [Finding(_CHANGED, root.name, reason, _REWRITE) for reason in artifacts.damage(root)]
