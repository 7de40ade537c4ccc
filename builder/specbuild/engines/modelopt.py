# SPDX-License-Identifier: Apache-2.0
"""What ModelOpt's hf_ptq.py can do, read from its contract."""

from __future__ import annotations

from collections.abc import Mapping

from specbuild.engines import contracts

_CONTRACT = contracts.document("hf_ptq")

FORMATS: Mapping[str, str] = _CONTRACT["formats"]
"""``quantization`` of the configuration -> ``--qformat``; others have no Hugging Face export."""
DATASETS: tuple[str, ...] = tuple(_CONTRACT["datasets"])
"""Calibration data that it knows by name; it takes no other."""
FOLDERS: tuple[str, ...] = tuple(_CONTRACT["folders"])
"""Where it lies in a checkout of Model-Optimizer, newest place first."""
RELEASE = str(_CONTRACT["source"][0]["ref"])
"""The release of Model-Optimizer whose flags were read."""
