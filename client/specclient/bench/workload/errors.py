# SPDX-License-Identifier: Apache-2.0
"""Why a workload cannot be made."""

from __future__ import annotations

from specclient.errors import SpecClientError


class WorkloadError(SpecClientError):
    """A file of prompts, a tokenizer or a length is missing, damaged or contradicts another option."""

    default_remedy = "Correct the option that describes the workload."
