# SPDX-License-Identifier: Apache-2.0
"""YAML read defensively: small, plain, without duplicate keys or aliases.

PyYAML's SafeLoader builds no objects, but it silently keeps the last of two equal keys, expands
aliases without a bound, and reads YAML 1.1 oddities (``on`` as true, ``012`` as octal). A
configuration needs none of these.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from specbuild.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, aliases, deep nesting and ambiguous scalars."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not allowed", problem_mark=event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="keys must be words", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {key_node.value!r}", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


# YAML 1.2's core booleans and decimal numbers only: `on`, `yes`, `0o17`, `017` and `1:30` stay text.
_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,18})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+][0-9]{1,3})?$"),
    list("-+0123456789"),
)


def read(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file ``path``.

    Raises ConfigError when the file is missing, too large, not UTF-8, not plain YAML or not a mapping.
    """
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"{path} is larger than {MAX_BYTES >> 20} MiB",
                remedy="A configuration is a few hundred bytes; name the right file.",
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or error}",
            remedy="Name an existing file, or write one with `specbuild init demo`.",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text (byte {error.start})", remedy="Save the file as UTF-8."
        ) from None
    document = _parse(text, source=str(path))
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path} must hold a mapping (key: value), not {_kind(document)}",
            remedy="Start from a preset: `specbuild init demo`.",
        )
    return document


def parse_value(text: str, *, source: str) -> Any:
    """One YAML value, as written after ``--set key=``. Raises ConfigError."""
    return _parse(text, source=source)


def _parse(text: str, *, source: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context or "not valid YAML"
        raise ConfigError(f"{source}{place}: {problem}", remedy="Correct the YAML there.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first_line = (str(error).splitlines() or ["not valid YAML"])[0]
        raise ConfigError(f"{source}: {first_line}", remedy="Correct the YAML there.") from None


def _kind(value: Any) -> str:
    return {list: "a list", type(None): "nothing"}.get(type(value), f"a single {type(value).__name__}")
