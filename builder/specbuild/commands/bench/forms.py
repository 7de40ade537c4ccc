# SPDX-License-Identifier: Apache-2.0
"""The page and the CSV beside a report's JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from specbuild import artifacts
from specbuild.errors import ServerError

if TYPE_CHECKING:
    from specclient.bench.document import Document

FORMS = ("html", "csv")


def beside(path: Path, form: str) -> Path:
    """Where a form of the report in ``path`` goes."""
    return path.with_suffix(f".{form}") if path.suffix == ".json" else path.with_name(f"{path.name}.{form}")


def write(path: Path, report: Mapping[str, Any], form: str) -> Path:
    """Write one of FORMS beside ``path`` and return its place; a reader never sees half of it."""
    from specclient.bench import csvfile, page

    document = cast("Document", report)
    text = page.html(document) if form == "html" else csvfile.csv_text(document)
    place = beside(path, form)
    try:
        artifacts.write_atomic(place, text.encode("utf-8"))
    except OSError as error:
        raise ServerError(
            f"cannot write {place}: {error.strerror}", remedy="Free the place, or name another folder."
        ) from error
    return place
