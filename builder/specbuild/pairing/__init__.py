# SPDX-License-Identifier: Apache-2.0
"""May this draft serve this target? All reasons, each with a stable code and a remedy."""

from specbuild.pairing.codes import CODES, Code, Severity
from specbuild.pairing.finding import Finding, Pair, Rule, Subject
from specbuild.pairing.report import PairReport, compare, inspect, require

__all__ = [
    "CODES",
    "Code",
    "Finding",
    "Pair",
    "PairReport",
    "Rule",
    "Severity",
    "Subject",
    "compare",
    "inspect",
    "require",
]
