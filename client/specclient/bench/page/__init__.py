# SPDX-License-Identifier: Apache-2.0
"""A report as one self-contained HTML page, with charts as SVG and a table for each."""

from specclient.bench.page.render import html

__all__ = ["html"]
