# SPDX-License-Identifier: Apache-2.0
"""From TensorRT engines to the LLM API: a configuration, and what is carried over, changed and lost."""

from specbuild.migration.note import KINDS, Migration, Note
from specbuild.migration.repository import recover
from specbuild.migration.translate import translate

__all__ = ["KINDS", "Migration", "Note", "recover", "translate"]
