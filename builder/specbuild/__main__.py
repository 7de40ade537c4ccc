# SPDX-License-Identifier: Apache-2.0
"""``python -m specbuild``."""

from specbuild.cli import main

main()
