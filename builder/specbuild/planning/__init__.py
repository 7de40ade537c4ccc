# SPDX-License-Identifier: Apache-2.0
"""Planning: what a pair can gain, as pure arithmetic."""
