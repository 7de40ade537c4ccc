# SPDX-License-Identifier: Apache-2.0
from typing import Any


def update_llm_args_with_extra_dict(llm_args: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """``document`` on top of ``llm_args``."""
    return llm_args | document
