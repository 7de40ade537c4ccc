# SPDX-License-Identifier: Apache-2.0
"""What set-up says about a machine without a browser: a note, and an error before the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "check_system.py"


def check(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("options", "code", "word"), [((), 0, "note"), (("--tests",), 1, "error")])
def test_a_missing_browser_is_named_with_its_remedy(
    tmp_path: Path, options: tuple[str, ...], code: int, word: str
) -> None:
    done = check(tmp_path, *options)
    assert done.returncode == code
    assert (
        done.stderr.startswith(f"{word}: there is no Chromium") and "apt-get install chromium" in done.stderr
    )


def test_nothing_is_said_where_everything_is(tmp_path: Path) -> None:
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    done = check(tmp_path, "--tests")
    assert (done.returncode, done.stderr) == (0, "")
