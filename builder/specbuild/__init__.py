# SPDX-License-Identifier: Apache-2.0
"""specbuild: a draft and a target LLM, built, served and measured with speculative decoding."""

__version__ = "0.1.0"
