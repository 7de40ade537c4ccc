# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with perf_analyzer."""

from __future__ import annotations

from specclient.errors import SpecClientError


class PerfAnalyzerError(SpecClientError):
    """perf_analyzer did not start, failed, or wrote what cannot be read."""

    default_remedy = "Read its own message; its command and files are in the folder beside the report."
