# SPDX-License-Identifier: Apache-2.0
"""The folder of a checkpoint, and the only places that its files may lie in.

A checkpoint is data from a stranger: names in it must not lead to other files of this machine. The one
layout that needs links is the Hugging Face cache, whose ``snapshots/REVISION/`` holds links into
``blobs/`` of the same repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from specbuild.errors import CheckpointError

MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Folder:
    """An existing folder; files are reached by plain relative names."""

    path: Path
    roots: tuple[Path, ...]
    """Resolved folders in which a file may end after following links."""

    @classmethod
    def open(cls, path: Path) -> Folder:
        """The folder ``path``. Raises CheckpointError when there is none."""
        try:
            resolved = path.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            resolved = None
        if resolved is None or not resolved.is_dir() or not _is_readable(resolved):
            raise CheckpointError(
                f"{path} is not a folder that can be read",
                remedy="Name a folder with config.json, tokenizer.json and *.safetensors, or a hub id.",
                code="checkpoint-missing",
            )
        return cls(path=path, roots=(resolved, *_hub_blobs(resolved)))

    def find(self, name: str) -> Path | None:
        """The file ``name``, or None when it is absent.

        Raises CheckpointError when the name or a link leads out of the checkpoint, or to no regular file.
        """
        if not _is_plain(name):
            raise self._outside(name, "is not a plain relative file name")
        path = self.path / name
        if not path.is_symlink() and not path.exists():
            return None
        try:
            resolved = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise CheckpointError(
                f"{path} is a broken link, or leads where nothing can be read",
                remedy="Download the checkpoint again; a cleaned Hugging Face cache leaves such links.",
                code="file-missing",
            ) from None
        if not any(resolved.is_relative_to(root) for root in self.roots):
            raise self._outside(name, f"leads to {resolved}")
        if not resolved.is_file():
            raise CheckpointError(
                f"{path} is not a regular file",
                remedy="Replace it with the checkpoint's own file.",
                code="file-missing",
            )
        return path

    def json(self, name: str, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any] | None:
        """The JSON object in the file ``name``, or None when the file is absent.

        Raises CheckpointError when it is too large, not UTF-8, not JSON, or repeats a key.
        """
        data = self.read(name, max_bytes=max_bytes)
        return None if data is None else parse_object(data, source=self.path / name)

    def read(self, name: str, *, max_bytes: int = MAX_JSON_BYTES) -> bytes | None:
        """The bytes of the file ``name``, or None when it is absent. Raises CheckpointError."""
        path = self.find(name)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise _invalid(path, f"cannot be read: {error.strerror or error}") from None
        if len(data) > max_bytes:
            raise _invalid(path, f"is larger than {max_bytes >> 20} MiB")
        return data

    def names(self, suffixes: Iterable[str]) -> list[str]:
        """Names of the files directly in the folder that end in one of ``suffixes``, sorted."""
        endings = tuple(suffixes)
        return sorted(path.name for path in self.path.iterdir() if path.name.endswith(endings))

    def _outside(self, name: str, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {name!r} {reason}, outside the checkpoint",
            remedy="Copy the file into the checkpoint's folder. Links are followed only inside it and in the "
            "Hugging Face cache.",
            code="file-outside",
        )


def parse_object(data: bytes, *, source: Path) -> dict[str, Any]:
    """``data`` as a JSON object without repeated keys. Raises CheckpointError naming ``source``."""
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise _invalid(source, f"is not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise _invalid(source, f"is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise _invalid(source, "does not hold a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {repeated[:80]!r}")
    return result


def _is_plain(name: str) -> bool:
    """Whether ``name`` is a relative POSIX path that stays below its folder by its words alone."""
    parts = PurePosixPath(name).parts
    return bool(
        name.isprintable()  # which also excludes what cannot be encoded
        and 0 < len(name.encode()) <= 255
        and not name.startswith("/")
        and ".." not in parts
        and "\\" not in name
    )


def _is_readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _hub_blobs(snapshot: Path) -> tuple[Path, ...]:
    """``blobs/`` of the cached repository that ``snapshot`` is a revision of, if it is one."""
    repository = snapshot.parent.parent
    if snapshot.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return ()
    return (repository / "blobs",)


def _invalid(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {reason}", remedy="Download the file again, or correct it.", code="file-invalid"
    )
