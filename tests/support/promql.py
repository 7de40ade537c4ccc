# SPDX-License-Identifier: Apache-2.0
"""What a PromQL expression reads, found by Prometheus's own grammar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import promql_parser


def selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The metric of each selector in ``expression`` and the labels that it asks to be equal to something."""
    yield from _walk(promql_parser.parse(expression.replace("$__rate_interval", "1m")))


def _walk(node: Any) -> Iterator[tuple[str, dict[str, str]]]:
    if isinstance(node, promql_parser.VectorSelector):
        equal = {
            matcher.name: matcher.value
            for matcher in node.matchers.matchers
            if matcher.op == promql_parser.MatchOp.Equal
        }
        yield str(node.name), equal
    for part in ("lhs", "rhs", "expr", "vector_selector"):
        child = getattr(node, part, None)
        if child is not None:
            yield from _walk(child)
    for argument in getattr(node, "args", None) or ():
        yield from _walk(argument)
