# SPDX-License-Identifier: Apache-2.0
"""Folders that are complete or absent.

``publish`` stages beside the final folder, adds a manifest with the sha256 of every file, flushes to
disk and renames. A process killed at any moment leaves the old folder, the new one, or a stale staging
folder that the next ``publish`` removes; never half of one under the final name. A lock beside the
folder keeps two builds apart; the kernel drops it when its owner dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbuild.errors import BuildError

MANIFEST = "manifest.json"
_SCHEMA = 1
_STAGING_SUFFIX = ".staging"
_AT_FDCWD = -100  # fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a published folder holds and what it was made from."""

    key: str
    """Content key: equal keys mean the same inputs, flags and versions."""
    files: Mapping[str, str]
    """Relative POSIX path -> sha256 in hex."""
    sizes: Mapping[str, int]
    """Relative POSIX path -> bytes."""
    facts: Mapping[str, Any]
    """Provenance, as given to ``publish``."""


def content_key(inputs: Mapping[str, Any]) -> str:
    """A sha256 over ``inputs`` (JSON types), independent of the order of keys."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of ``folder``, or None when there is none or it cannot be read."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if data["schema"] != _SCHEMA:
            return None
        files = {name: entry["sha256"] for name, entry in data["files"].items()}
        sizes = {name: entry["bytes"] for name, entry in data["files"].items()}
        return Manifest(key=data["key"], files=files, sizes=sizes, facts=data["facts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_current(folder: Path, key: str) -> bool:
    """Whether ``folder`` was published under ``key`` and every file is still there in full size.

    Sizes only, so that the answer costs milliseconds; ``damage`` reads every byte.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.key != key:
        return False
    return all(_size(folder / name) == size for name, size in manifest.sizes.items())


def damage(folder: Path) -> list[str]:
    """What is missing from or changed in a published folder, by sha256; empty when all is well."""
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder} has no readable {MANIFEST}"]
    findings = []
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            findings.append(f"{path} is missing")
        elif sha256(path) != digest:
            findings.append(f"{path} has changed since it was written")
    return findings


@contextlib.contextmanager
def publish(final: Path, *, key: str, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty staging folder; on a clean exit it becomes ``final``, with a manifest.

    On an exception the staging folder is removed and ``final`` keeps what it had. The caller holds
    ``lock(final)``. Raises BuildError when the disk is full or ``final`` holds files that specbuild
    did not write.
    """
    _refuse_foreign(final)
    _sweep(final)
    staging = final.with_name(f".{final.name}.{os.getpid()}{_STAGING_SUFFIX}")
    try:
        staging.mkdir(parents=True)
        yield staging
        _write_manifest(staging, key, facts)
        _flush(staging)
        _replace(staging, final)
    except OSError as error:
        raise _build_error(error, final) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def lock(final: Path) -> Iterator[None]:
    """Hold the exclusive lock of ``final``. Raises BuildError naming the process that has it."""
    path = final.with_name(f".{final.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise _build_error(error, final) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise BuildError(
                f"{final} is being written by process {owner}",
                remedy="Wait for it to finish, or stop it; then run this command again.",
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file ``path`` with ``data``: a reader sees the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}{_STAGING_SUFFIX}")
    try:
        with staging.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def _refuse_foreign(final: Path) -> None:
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise BuildError(f"{final} exists and is not a folder", remedy="Move it away, or set another output.")
    if final.is_dir() and any(final.iterdir()) and read_manifest(final) is None:
        raise BuildError(
            f"{final} holds files that specbuild did not write",
            remedy="Move them away, or set another output; nothing was deleted.",
        )


def _sweep(final: Path) -> None:
    """Remove staging folders left by killed processes; the lock makes sure that none is alive."""
    for stale in final.parent.glob(f".{final.name}.*{_STAGING_SUFFIX}"):
        shutil.rmtree(stale, ignore_errors=True)


def _write_manifest(folder: Path, key: str, facts: Mapping[str, Any]) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    document = {"schema": _SCHEMA, "key": key, "facts": dict(facts), "files": files}
    (folder / MANIFEST).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _flush(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(staging: Path, final: Path) -> None:
    """Rename ``staging`` to ``final``; an old folder changes places with it, and the caller removes it."""
    if final.exists():
        _exchange(staging, final)
    else:
        staging.rename(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the file system can, so that a kill leaves the old or the new."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(number, os.strerror(number), str(other))
    # NFS and others cannot: the old folder steps aside, and for a moment there is none.
    aside = other.with_name(f".{other.name}.old{_STAGING_SUFFIX}")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _build_error(error: OSError, final: Path) -> BuildError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        free = shutil.disk_usage(_existing(final)).free
        return BuildError(
            f"no space left while writing {final} ({free / 1e9:.1f} GB free)",
            remedy="Free space or set another output; nothing under the final name was changed.",
        )
    return BuildError(
        f"cannot write {final}: {error.strerror or error}",
        remedy="Check the folder's permissions, or set another output.",
    )


def _existing(path: Path) -> Path:
    return next(parent for parent in [path, *path.absolute().parents] if parent.exists())
