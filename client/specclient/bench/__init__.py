# SPDX-License-Identifier: Apache-2.0
"""The benchmark harness.

from specclient.bench import Settings, compare, document

report = document(compare(Settings(url="127.0.0.1:8001", request_count=20)))
print(report["speedup"]["p50"], report["speedup"]["ci95"])
"""

from specclient.bench.document import Document
from specclient.bench.load import Concurrency, Rate, Replay
from specclient.bench.measure import Arm, Outcome, Progress, compare, measure, search, servers
from specclient.bench.report import document
from specclient.bench.settings import Settings, Stability
from specclient.bench.slo import RateSearch
from specclient.bench.table import render
from specclient.bench.workload import Prompt, Workload, bundled

__all__ = [
    "Arm",
    "Concurrency",
    "Document",
    "Outcome",
    "Progress",
    "Prompt",
    "Rate",
    "RateSearch",
    "Replay",
    "Settings",
    "Stability",
    "Workload",
    "bundled",
    "compare",
    "document",
    "measure",
    "render",
    "search",
    "servers",
]
