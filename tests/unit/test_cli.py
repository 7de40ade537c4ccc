# SPDX-License-Identifier: Apache-2.0
"""The command line: help of every verb, exit codes, and errors without tracebacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from specbuild import cli
from specbuild.errors import BuildError


def commands() -> Iterator[tuple[str, ...]]:
    def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from walk(inner, (*path, name))

    yield from walk(cli.root, ())


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_explains_itself_with_an_example(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: specbuild")
    assert " ".join(["specbuild", *path]) in text.split("Options:")[0].split("\n", 1)[1], (
        "no runnable example"
    )


def test_the_help_lists_each_command_with_its_own_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["--help"])
    listing = capsys.readouterr().out
    for name, (_, line) in cli.COMMANDS.items():
        assert name in listing and line[:20] in listing


def test_help_imports_neither_torch_nor_a_command() -> None:
    script = (
        "import sys; from specbuild import cli; cli.run(['--help']);"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "{'torch', 'transformers', 'pydantic', 'numpy', 'rich', 'yaml', 'tritonclient', 'grpc'}"
        " or m.startswith('specbuild.commands')])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["no-such-verb"], 2, "No such command"),
        (["chekc"], 2, "did you mean check?"),
        (["check"], 2, "Missing option"),
        (["check", "--config", "absent.yaml"], 2, "cannot read absent.yaml"),
        (["check", "--config", "absent.yaml", "--frobnicate"], 2, "No such option"),
        (["init", "dmeo"], 2, "did you mean demo?"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(
    argv: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(argv) == code
    captured = capsys.readouterr()
    assert text in captured.err and "Traceback" not in captured.err
    assert captured.out == ""


def test_an_error_is_printed_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise BuildError("it broke", remedy="mend it")

    monkeypatch.setattr(cli.root, "main", fail)
    assert cli.run([]) == 1
    error = capsys.readouterr().err
    assert "error: it broke" in error and "fix: mend it" in error
    with pytest.raises(BuildError):
        cli.run(["--debug"])


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.root, "main", interrupted)
    assert cli.run([]) == 130


@pytest.mark.parametrize("arguments", ["--help", "config schema"])
def test_a_closed_pipe_is_no_error(arguments: str) -> None:
    result = subprocess.run(
        # `exec 0<&-` leaves before anything is written: what fits into the pipe would not fail otherwise.
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m specbuild {arguments} | exec 0<&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_init_writes_a_preset_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "pair.yaml"
    assert cli.run(["init", "demo", "--output", str(target)]) == 0
    assert cli.run(["config", "show", "--config", str(target)]) == 0
    assert "runtime: torch" in capsys.readouterr().out
    assert cli.run(["init", "demo", "--output", str(target)]) == 2
    assert cli.run(["init", "demo", "--output", str(target), "--force"]) == 0
    assert cli.run(["init"]) == 0
    assert "demo" in capsys.readouterr().out
