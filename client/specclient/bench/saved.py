# SPDX-License-Identifier: Apache-2.0
"""Reports on the disk: a saved document is read and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from specclient.bench.document import SCHEMA_VERSION, Document
from specclient.errors import SpecClientError


class ReportError(SpecClientError):
    """A file is no report, or one of another version."""

    default_remedy = "Name a JSON report that `specbuild bench` has written."


def read(path: Path) -> Document:
    """The document in ``path``. Raises ReportError, which names the part that is wrong."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ReportError(f"{path} is not JSON: {error}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise ReportError(
            f"{path} has no schema version {SCHEMA_VERSION}: {version!r}",
            remedy="Measure again, or use the specbuild version that wrote the file.",
        )
    return _checked(path, value)


def _checked(path: Path, value: Any) -> Document:
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Document] = TypeAdapter(Document)
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ReportError(f"{path} is no whole report: {place}: {first['msg']}") from error
    document: Document = value  # as it was read: pydantic would turn 1 into 1.0
    return document


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
