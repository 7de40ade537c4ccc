# SPDX-License-Identifier: Apache-2.0
"""The torch runtime on a GPU: captured rounds, kernels in Triton's language, state on the device."""
