# SPDX-License-Identifier: Apache-2.0
"""argparse as a contract file describes it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

CONTRACTS = Path(__file__).parents[3] / "builder" / "specbuild" / "engines" / "contracts"
_TYPES = {"int": int, "float": float, "str": str, "enum": str, "bool": None}


def document(name: str) -> dict[str, Any]:
    return json.loads((CONTRACTS / f"{name}.json").read_text(encoding="utf-8"))


def parse(contract: str, argv: list[str]) -> argparse.Namespace:
    """``argv`` parsed; ends the process with code 2, as argparse does, on anything the contract lacks."""
    parser = argparse.ArgumentParser(prog=contract)
    for flag in document(contract)["flags"]:
        names = [flag["name"], *flag.get("aliases", ())]
        options: dict[str, Any] = {"required": flag.get("required", False)}
        if flag.get("action") == "store_true":
            options["action"] = "store_true"
        else:
            kind, default = _TYPES[flag["type"]], flag["default"]
            described = isinstance(default, str) and kind is not str  # words, as in "follows MoeConfig"
            options |= {"type": kind, "default": None if described else default}
            options |= {key: flag[key] for key in ("choices", "nargs", "const") if key in flag}
        parser.add_argument(*names, **options)
    return parser.parse_args(argv)
