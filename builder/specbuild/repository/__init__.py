# SPDX-License-Identifier: Apache-2.0
"""The Triton model repository: written from a deployment's configuration, and verified."""

from specbuild.repository.finding import Finding
from specbuild.repository.publish import write
from specbuild.repository.verify import verify

__all__ = ["Finding", "verify", "write"]
