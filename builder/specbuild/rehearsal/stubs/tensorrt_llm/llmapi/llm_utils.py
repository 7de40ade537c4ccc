# SPDX-License-Identifier: Apache-2.0
"""The function that reads the arguments of an ``LLM`` from a document."""

from __future__ import annotations

from typing import Any


def update_llm_args_with_extra_dict(llm_args: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """``llm_args`` with ``document`` on top."""
    return llm_args | document
