# SPDX-License-Identifier: Apache-2.0
"""The check of a pair: read both models, apply every rule, list all reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from specbuild.checkpoint import Checkpoint, Examination, examine, resolve
from specbuild.config import Config, Model
from specbuild.engines import gpus
from specbuild.errors import CheckpointError, PairError
from specbuild.pairing import (
    engine_gpus,
    engine_models,
    engine_settings,
    files,
    llmapi,
    models,
    sizing,
    vocabulary,
)
from specbuild.pairing.codes import SEVERITIES
from specbuild.pairing.finding import Finding, Pair, Rule

RULES: tuple[Rule, ...] = (*files.RULES, *models.RULES, *vocabulary.RULES, *sizing.RULES)
ENGINE_RULES: tuple[Rule, ...] = (*engine_settings.RULES, *engine_models.RULES, *engine_gpus.RULES)
"""For the tensorrt_llm runtime."""
_OF_RUNTIME: Mapping[str, tuple[Rule, ...]] = {"tensorrt_llm": ENGINE_RULES, "llmapi": llmapi.RULES}


@dataclass(frozen=True, slots=True)
class PairReport:
    """Both models and all findings, errors first."""

    target: Examination
    draft: Examination
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the pair can work: no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)


def compare(target: Checkpoint, draft: Checkpoint, settings: Config) -> list[Finding]:
    """Every finding about two open checkpoints and their settings, errors first."""
    return _apply(Pair(Examination.of(target), Examination.of(draft), settings))


def inspect(settings: Config) -> PairReport:
    """The report on the configured pair; both models are examined even if one cannot be read.

    A hub id that is not in the local cache is downloaded.
    """
    target, draft = _examine(settings.target), _examine(settings.draft)
    devices = gpus.detect() if settings.runtime == "tensorrt_llm" else ()
    return PairReport(target, draft, tuple(_apply(Pair(target, draft, settings, devices))))


def require(settings: Config) -> tuple[Checkpoint, Checkpoint]:
    """The open target and draft of a pair that can work. Raises PairError listing every error."""
    report = inspect(settings)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if errors:
        listed = "; ".join(f"{error.reason} ({error.code})" for error in errors)
        raise PairError(listed, remedy=f"{errors[0].remedy} `specbuild check` lists all findings.")
    return report.target.complete(), report.draft.complete()


def _examine(model: Model) -> Examination:
    try:
        folder = resolve(model)
    except CheckpointError as error:
        return Examination(folder=None, errors=(error,))
    return examine(folder, trust_remote_code=model.trust_remote_code)


def _apply(pair: Pair) -> list[Finding]:
    rules = RULES + _OF_RUNTIME.get(pair.settings.runtime, ())
    found = chain.from_iterable(rule(pair) for rule in rules)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
