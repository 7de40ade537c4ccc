# SPDX-License-Identifier: Apache-2.0
"""Runs a generated repository on a real Triton without a GPU: its engines are played by the torch runtime."""
