# SPDX-License-Identifier: Apache-2.0
"""The root command. Commands are imported when they are used; errors are printed here only."""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType

import click

from specbuild import __version__
from specbuild.errors import SpecbuildError

# verb -> (module:attribute, help line). The lines stand here so that `--help` imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("specbuild.commands.demo:demo", "Run the whole chain on a synthetic pair, on this machine."),
    "init": ("specbuild.commands.init:init", "Write a configuration from a preset."),
    "config": ("specbuild.commands.config:config", "Show a configuration, or the schema of the file."),
    "doctor": ("specbuild.commands.doctor:doctor", "Say what this machine has, and what each runtime lacks."),
    "check": ("specbuild.commands.check:check", "Check the pair and the settings before any build."),
    "pair": ("specbuild.commands.pair:pair", "Make a synthetic pair with known acceptance."),
    "engines": ("specbuild.commands.engines:engines", "Build the engines of both models."),
    "repository": ("specbuild.commands.repository:repository", "Write or verify the Triton repository."),
    "serve": ("specbuild.commands.serve:serve", "Start Triton on the repository; Ctrl-C stops it."),
    "rehearse": ("specbuild.commands.rehearse:rehearse", "Run an engine repository here, without a GPU."),
    "generate": ("specbuild.commands.generate:generate", "Stream one prompt from the running server."),
    "bench": ("specbuild.commands.bench:bench", "Measure latency, throughput and the speed-up."),
    "migrate": ("specbuild.commands.migrate:migrate", "Move from TensorRT engines to the LLM API."),
    "export": ("specbuild.commands.export:export", "Print another server's command for the same pair."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is run or its own help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from specbuild.suggest import did_you_mean

            raise click.UsageError(error.message + did_you_mean(args[0], COMMANDS), ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="specbuild")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def root(ctx: click.Context, debug: bool) -> None:
    """Speculative decoding on NVIDIA Triton: from two checkpoints to a measured server.

    \b
    On this machine, without a GPU or a download:
      specbuild demo

    \b
    A deployment, step by step:
      specbuild init demo > pair.yaml
      specbuild check      --config pair.yaml
      specbuild engines    --config pair.yaml
      specbuild repository --config pair.yaml
      specbuild serve      --config pair.yaml

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
    """
    ctx.obj = {"debug": debug}


def main() -> None:
    """Entry point of the ``specbuild`` program."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run the command line ``argv`` and return its exit code; errors go to stderr."""
    debug = "--debug" in argv
    # A terminated command must release locks, staging folders and child processes as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = root.main(argv, prog_name="specbuild", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SpecbuildError as error:
        if debug:
            raise
        _print_error(error.message, error.remedy)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except SystemExit:
        # Click's answer to a closed pipe, and nobody else's: the reader (head, less) has what it wanted.
        return 0
    except Exception as error:
        if debug:
            raise
        _print_error(
            f"unexpected {type(error).__name__}: {error}",
            "This is a bug in specbuild. Run again with `specbuild --debug ...` and report the traceback.",
        )
        return 1


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_error(message: str, remedy: str) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + message, err=True)
    if remedy:
        click.echo(click.style("  fix: ", fg="green", bold=True) + remedy, err=True)
