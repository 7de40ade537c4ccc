# SPDX-License-Identifier: Apache-2.0
"""Client and benchmark harness for speculatively decoding Triton deployments."""
