# SPDX-License-Identifier: Apache-2.0
"""Published folders are complete or absent, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from specbuild import artifacts
from specbuild.errors import BuildError


def publish(final: Path, *, key: str = "k", content: str = "data") -> None:
    with artifacts.lock(final), artifacts.publish(final, key=key, facts={"made": "here"}) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "file").write_text(content)


def test_a_published_folder_has_a_manifest_with_hashes(tmp_path: Path) -> None:
    publish(tmp_path / "x")
    manifest = artifacts.read_manifest(tmp_path / "x")
    assert manifest is not None and manifest.facts == {"made": "here"}
    assert manifest.files == {"sub/file": "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"}
    assert artifacts.is_current(tmp_path / "x", "k") and not artifacts.is_current(tmp_path / "x", "other")
    assert artifacts.damage(tmp_path / "x") == []


def test_damage_is_found(tmp_path: Path) -> None:
    publish(tmp_path / "x")
    (tmp_path / "x" / "sub" / "file").write_text("atad")
    assert artifacts.is_current(tmp_path / "x", "k"), "same size: only the hash tells"
    assert "has changed" in artifacts.damage(tmp_path / "x")[0]
    (tmp_path / "x" / "sub" / "file").unlink()
    assert not artifacts.is_current(tmp_path / "x", "k")
    assert "is missing" in artifacts.damage(tmp_path / "x")[0]


def test_publishing_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    publish(tmp_path / "x")
    with artifacts.lock(tmp_path / "x"), artifacts.publish(tmp_path / "x", key="2", facts={}) as staging:
        (staging / "other").write_text("new")
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["manifest.json", "other"]


def test_a_failed_publish_keeps_the_old_folder_and_leaves_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "x")
    final = tmp_path / "x"
    with (
        pytest.raises(RuntimeError),
        artifacts.lock(final),
        artifacts.publish(final, key="2", facts={}) as staging,
    ):
        (staging / "half").write_text("h")
        raise RuntimeError
    assert artifacts.is_current(tmp_path / "x", "k")
    assert {p.name for p in tmp_path.iterdir()} == {"x", ".x.lock"}


@pytest.mark.parametrize("kind", ["foreign folder", "file", "link"])
def test_what_specbuild_did_not_write_is_never_replaced(tmp_path: Path, kind: str) -> None:
    final = tmp_path / "x"
    if kind == "foreign folder":
        final.mkdir()
        (final / "precious").write_text("mine")
    elif kind == "file":
        final.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        final.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BuildError):
        publish(final)
    assert final.exists()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    script = """
        import resource, signal, sys
        from pathlib import Path
        from specbuild import artifacts
        from specbuild.errors import BuildError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with artifacts.publish(Path(sys.argv[1]), key="k", facts={}) as staging:
                (staging / "big").write_bytes(b"x" * 5000)
        except BuildError as error:
            print(error.message)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no space left" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_told_who_has_the_lock(tmp_path: Path) -> None:
    with (
        artifacts.lock(tmp_path / "x"),
        pytest.raises(BuildError, match=f"process {os.getpid()}"),
        artifacts.lock(tmp_path / "x"),
    ):
        pass


@pytest.mark.parametrize("moment", ["staging", "replaced", "between two renames"])
def test_a_killed_writer_leaves_old_or_new_and_the_next_one_cleans_up(tmp_path: Path, moment: str) -> None:
    publish(tmp_path / "x", key="old")
    script = """
        import ctypes, os, signal, sys
        from pathlib import Path
        from specbuild import artifacts
        final, moment = Path(sys.argv[1]), sys.argv[2]
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "replaced":
            exchange = artifacts._exchange
            artifacts._exchange = lambda *paths: (exchange(*paths), die())
        if moment == "between two renames":
            artifacts._RENAME_EXCHANGE = 1 << 20  # EINVAL, as from a file system that cannot exchange
            rename = Path.rename
            Path.rename = lambda *paths: (rename(*paths), die())
        with artifacts.lock(final), artifacts.publish(final, key="new", facts={}) as staging:
            (staging / "file").write_text("new")
            if moment == "staging":
                die()
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "x"), moment], check=False
    )
    assert child.returncode == -signal.SIGKILL
    left = artifacts.read_manifest(tmp_path / "x")
    assert (None if left is None else left.key) == {"staging": "old", "replaced": "new"}.get(moment)
    assert left is None or artifacts.damage(tmp_path / "x") == []
    publish(tmp_path / "x", key="again")
    assert artifacts.is_current(tmp_path / "x", "again")
    assert {p.name for p in tmp_path.iterdir()} == {"x", ".x.lock"}


def test_a_folder_is_replaced_where_folders_cannot_change_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "x", key="old")
    monkeypatch.setattr(artifacts, "_RENAME_EXCHANGE", 1 << 20)
    publish(tmp_path / "x", key="new")
    assert artifacts.is_current(tmp_path / "x", "new")
    assert {p.name for p in tmp_path.iterdir()} == {"x", ".x.lock"}


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    artifacts.write_atomic(tmp_path / "a" / "report.json", b"1")
    artifacts.write_atomic(tmp_path / "a" / "report.json", b"2")
    assert (tmp_path / "a" / "report.json").read_bytes() == b"2"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["report.json"]
