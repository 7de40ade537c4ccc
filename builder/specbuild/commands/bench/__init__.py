# SPDX-License-Identifier: Apache-2.0
"""``specbuild bench``: measurements on the running server."""

from __future__ import annotations

import click

from specbuild.commands.bench.compare import compare
from specbuild.commands.bench.latency import latency
from specbuild.commands.bench.openai import openai
from specbuild.commands.bench.perf_analyzer import perf_analyzer
from specbuild.commands.bench.report import report
from specbuild.commands.bench.throughput import throughput


@click.group()
def bench() -> None:
    """Measure a running server.

    \b
    Example:
      specbuild bench compare --request-count 20 --max-tokens 128
      specbuild bench throughput --concurrency 1:16:x2
    """


for command in (latency, throughput, compare, openai, perf_analyzer, report):
    bench.add_command(command)
