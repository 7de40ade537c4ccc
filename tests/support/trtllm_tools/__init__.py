# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for programs that need a GPU: trtllm-build, the converters, quantize.py, docker, nvidia-smi.

They take their options from the same contract files as the product, but read them on their own, with
argparse, as the real programs do. What the real ones refuse they refuse: unknown options, wrong types and
choices, forbidden combinations, wrong input folders. What the real ones change silently they change. They
write the real layout with tiny contents. ``install.toolchain`` puts them into a folder; a file there asks
for a fault (``faults.py``).
"""
