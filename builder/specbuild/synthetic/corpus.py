# SPDX-License-Identifier: Apache-2.0
"""The text a synthetic pair is made from: named files and folders, or Python's own standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specbuild.errors import ConfigError

MIN_BYTES = 10_000
MAX_BYTES = 64 << 20

# Tests, generated tables and third-party code would be most of the text and read like none of the rest.
_NOT_PROSE = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data"}
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in a fixed order."""

    source: str
    """What the user named, for the record."""
    documents: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        return sum(len(document.encode()) for document in self.documents)

    @property
    def sha256(self) -> str:
        """A digest of the documents and the places where they are split."""
        digest = hashlib.sha256()
        for document in self.documents:
            data = document.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()


def read(paths: Sequence[Path]) -> Corpus:
    """The UTF-8 text in ``paths`` (files, or folders with all below them), or the standard library's.

    Inside a folder, hidden files and files that are not text are passed over. Raises ConfigError when
    a path cannot be read as text or the whole is too small or too large.
    """
    if paths:
        source = f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        files = [file for path in paths for file in _named(path)]
    else:
        source, files = "Python's standard library", _standard_library()
    named = set(paths)
    documents = tuple(text for file in files if (text := _text(file, required=file in named)))
    corpus = Corpus(source, documents)
    _check_size(corpus)
    return corpus


def _named(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigError(
            f"text {path} does not exist", remedy="Name an existing file or folder with --text."
        )
    return _below(path, "*") if path.is_dir() else [path]


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return [file for file in _below(root, "*.py") if not _NOT_PROSE & set(file.relative_to(root).parts)]


def _below(folder: Path, pattern: str) -> list[Path]:
    def hidden(file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(folder).parts)

    return sorted(file for file in folder.rglob(pattern) if file.is_file() and not hidden(file))


def _text(file: Path, *, required: bool) -> str:
    """The content of ``file``, or an empty string when it is passed over."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        text = file.read_bytes().decode("utf-8")
        if "\x00" in text:
            raise ValueError("it holds null bytes")
    except (OSError, ValueError) as error:
        if required:
            raise ConfigError(
                f"cannot read {file} as text: {error}", remedy="Name UTF-8 text files with --text."
            ) from error
        return ""
    return text


def _check_size(corpus: Corpus) -> None:
    if not MIN_BYTES <= corpus.size <= MAX_BYTES:
        raise ConfigError(
            f"{corpus.source} holds {corpus.size} bytes of text; a pair needs {MIN_BYTES} to {MAX_BYTES}",
            remedy="Name more text or less with --text, or leave it out to take the standard library.",
        )
