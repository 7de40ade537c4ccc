# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's perf_analyzer as the load generator: the same prompts, and its export in the same report.

It knows nothing of speculation, but it records every response with its outputs, and so the counters of
accepted tokens too. Figures that both can have are computed by the same code, from its times.
"""

from specclient.bench.perf_analyzer.command import check
from specclient.bench.perf_analyzer.errors import PerfAnalyzerError
from specclient.bench.perf_analyzer.run import ARM, measure

__all__ = ["ARM", "PerfAnalyzerError", "check", "measure"]
