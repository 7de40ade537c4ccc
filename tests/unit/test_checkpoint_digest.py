# SPDX-License-Identifier: Apache-2.0
"""Content digests: every byte counts, and no byte is read twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specbuild import artifacts
from specbuild.checkpoint import digest
from specbuild.errors import CheckpointError

LARGE = 1 << 20
YEAR_2001_NS = 10**18


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "specbuild" / "digests.json"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are really read."""
    names: list[str] = []
    real = artifacts.sha256

    def record(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(artifacts, "sha256", record)
    return names


def settled(path: Path, data: bytes) -> Path:
    """A file that was last written long ago."""
    path.write_bytes(data)
    os.utime(path, ns=(YEAR_2001_NS, YEAR_2001_NS))
    return path


def test_unchanged_file_is_hashed_once(tmp_path: Path, hashed: list[str]) -> None:
    settled(tmp_path / "w", bytes(LARGE))
    assert digest.of_files(tmp_path, ["w"]) == digest.of_files(tmp_path, ["w"])
    assert hashed == ["w"]


def test_one_byte_changes_the_digest(tmp_path: Path) -> None:
    settled(tmp_path / "w", bytes(LARGE))
    before = digest.of_files(tmp_path, ["w"])
    (tmp_path / "w").write_bytes(bytes(LARGE - 1) + b"\1")
    assert digest.of_files(tmp_path, ["w"]) != before


def test_replaced_file_of_equal_size_and_time_is_hashed_again(tmp_path: Path) -> None:
    path = settled(tmp_path / "w", bytes(LARGE))
    before = digest.of_files(tmp_path, ["w"])
    settled(tmp_path / "new", b"\1" * LARGE).rename(path)
    assert digest.of_files(tmp_path, ["w"]) != before


def test_file_written_a_moment_ago_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(LARGE))
    digest.of_files(tmp_path, ["w"])
    assert not cache.exists()


def test_names_count(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    assert digest.of_files(tmp_path, ["a"]) != digest.of_files(tmp_path, ["b"])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', '{"x": [1, 2, "c", 4]}', "[" * 100_000])
def test_damaged_cache_is_ignored(tmp_path: Path, cache: Path, hashed: list[str], content: str) -> None:
    settled(tmp_path / "w", bytes(LARGE))
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    expected = digest.of_files(tmp_path, ["w"])
    assert digest.of_files(tmp_path, ["w"]) == expected
    assert hashed == ["w"]


def test_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, hashed: list[str]) -> None:
    settled(tmp_path / "w", bytes(LARGE))
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert digest.of_files(tmp_path, ["w"]) == digest.of_files(tmp_path, ["w"])
    assert hashed == ["w", "w"]


def test_files_that_are_gone_leave_the_cache(tmp_path: Path, cache: Path) -> None:
    for name in ("a", "b"):
        settled(tmp_path / name, bytes(LARGE))
    digest.of_files(tmp_path, ["a"])
    (tmp_path / "a").unlink()
    digest.of_files(tmp_path, ["b"])
    assert str(tmp_path / "b") in cache.read_text()
    assert str(tmp_path / "a") not in cache.read_text()


def test_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone"):
        digest.of_files(tmp_path, ["gone"])
