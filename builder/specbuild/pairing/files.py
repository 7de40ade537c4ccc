# SPDX-License-Identifier: Apache-2.0
"""Findings about the files of each checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from specbuild.pairing.finding import Finding, Pair


def unreadable(pair: Pair) -> Iterator[Finding]:
    """Everything that could not be read, of both models."""
    for subject, model, _ in pair.models():
        for error in model.errors:
            yield Finding.of(error.code, subject, error.message, remedy=error.remedy)


def trusted_code(pair: Pair) -> Iterator[Finding]:
    """Code of the checkpoint's own, where the settings accept it."""
    for subject, model, options in pair.models():
        if model.custom_code and options.trust_remote_code:
            yield Finding.of(
                "custom-code-trusted",
                subject,
                f"loading {options.checkpoint} runs its own code: {'; '.join(model.custom_code)}",
                remedy="Pin `revision` to the commit whose code was read.",
            )


RULES = (unreadable, trusted_code)
