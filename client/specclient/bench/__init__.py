# SPDX-License-Identifier: Apache-2.0
"""The benchmark harness.

from specclient.bench import Settings, compare, document

report = document(compare(Settings(url="127.0.0.1:8001", request_count=20)))
print(report["speedup"]["p50"], report["speedup"]["ci95"])
"""

from specclient.bench.comparison import Comparison, Settings, compare
from specclient.bench.report import document, render
from specclient.bench.runner import Progress, Record
from specclient.bench.workload import Prompt, Workload, bundled

__all__ = [
    "Comparison",
    "Progress",
    "Prompt",
    "Record",
    "Settings",
    "Workload",
    "bundled",
    "compare",
    "document",
    "render",
]
