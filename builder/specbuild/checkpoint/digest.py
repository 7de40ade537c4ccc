# SPDX-License-Identifier: Apache-2.0
"""Content digests that are computed once: 200 GB of weights are not hashed again on every run.

A file's sha256 is remembered under its real path with size, modification time and inode, in
``$XDG_CACHE_HOME/specbuild/digests.json``. The file is a cache: absent, damaged or unwritable, it costs
time and never correctness.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from specbuild import artifacts
from specbuild.errors import CheckpointError

_LOG = logging.getLogger(__name__)
_CACHED_FROM_BYTES = 1 << 20
# A write within the clock's granularity after hashing would leave the time unchanged: such files are
# hashed again, as git does with its index.
_SETTLED_AFTER_NS = 2_000_000_000
_MAX_CACHE_BYTES = 64 << 20

Entry = tuple[int, int, int, str]
"""Size, mtime in ns, inode, sha256."""


def of_files(folder: Path, names: Iterable[str]) -> str:
    """A sha256 over names and contents of the files ``names`` in ``folder``, in hex.

    Raises CheckpointError when a file cannot be read.
    """
    cache = _read_cache()
    known = dict(cache)
    parts = {name: _of_file(folder / name, cache) for name in sorted(names)}
    if cache != known:
        _write_cache(cache)
    return artifacts.content_key(parts)


def _of_file(path: Path, cache: dict[str, Entry]) -> str:
    """The sha256 of ``path``, from ``cache`` when the file is unchanged; ``cache`` learns it otherwise."""
    try:
        real = path.resolve(strict=True)
        before = real.stat()
        identity = (before.st_size, before.st_mtime_ns, before.st_ino)
        key = str(real)
        if key in cache and cache[key][:3] == identity:
            return cache[key][3]
        digest = artifacts.sha256(real)
        after = real.stat()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}",
            remedy="Check the disk and the file's permissions; download it again if it is damaged.",
            code="file-missing",
        ) from None
    unchanged = identity == (after.st_size, after.st_mtime_ns, after.st_ino)
    settled = time.time_ns() - after.st_mtime_ns > _SETTLED_AFTER_NS
    if unchanged and settled and after.st_size >= _CACHED_FROM_BYTES:
        cache[key] = (*identity, digest)
    return digest


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "specbuild" / "digests.json"


def _read_cache() -> dict[str, Entry]:
    try:
        path = _cache_file()
        if path.stat().st_size > _MAX_CACHE_BYTES:
            return {}
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: (int(size), int(mtime), int(inode), str(digest))
            for key, (size, mtime, inode, digest) in document.items()
        }
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write_cache(cache: dict[str, Entry]) -> None:
    """Keep what other processes learned meanwhile, drop files that are gone; never fail."""
    merged = {path: entry for path, entry in (_read_cache() | cache).items() if Path(path).exists()}
    try:
        artifacts.write_atomic(_cache_file(), json.dumps(merged).encode())
    except (OSError, RuntimeError) as error:
        _LOG.info("content digests are not remembered: %s", error)
