# SPDX-License-Identifier: Apache-2.0
"""What a check finds, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from specbuild.checkpoint import Examination
from specbuild.config import Config, Model
from specbuild.engines.gpus import Gpu
from specbuild.pairing.codes import CODES, Severity

ModelName = Literal["target", "draft"]
Subject = Literal["target", "draft", "pair", "settings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for or against a pair, with what to do about it."""

    code: str
    severity: Severity
    subject: Subject
    reason: str
    remedy: str

    @classmethod
    def of(cls, code: str, subject: Subject, reason: str, *, remedy: str) -> Finding:
        """A finding with the severity that ``CODES`` gives its code."""
        return cls(code, CODES[code].severity, subject, reason, remedy)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models as far as they could be read, and the settings they are to run with."""

    target: Examination
    draft: Examination
    settings: Config
    gpus: tuple[Gpu, ...] = ()
    """This machine's; empty when there are none or they do not matter."""

    def models(self) -> Iterator[tuple[ModelName, Examination, Model]]:
        yield "target", self.target, self.settings.target
        yield "draft", self.draft, self.settings.draft


Rule = Callable[[Pair], Iterator[Finding]]
"""Yields a finding per violation, and nothing where the parts it needs could not be read."""
