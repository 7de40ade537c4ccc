# SPDX-License-Identifier: Apache-2.0
"""The Triton model repository: written from a deployment's configuration, and verified."""

from specbuild.repository.finding import Finding
from specbuild.repository.publish import write
from specbuild.repository.verify import require, verify

__all__ = ["Finding", "require", "verify", "write"]
