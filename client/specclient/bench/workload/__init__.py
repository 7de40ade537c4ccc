# SPDX-License-Identifier: Apache-2.0
"""What a benchmark sends: bundled real text, files, lengths cut from real text, traces."""

from specclient.bench.workload.bundled import KINDS, bundled
from specclient.bench.workload.errors import WorkloadError
from specclient.bench.workload.options import WorkloadOptions, workload_from
from specclient.bench.workload.prompt import Message, Prompt, Workload
from specclient.bench.workload.shaping import Length

__all__ = [
    "KINDS",
    "Length",
    "Message",
    "Prompt",
    "Workload",
    "WorkloadError",
    "WorkloadOptions",
    "bundled",
    "workload_from",
]
