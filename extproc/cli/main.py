"""The command `extproc`: finds the module of a command, runs it, and turns errors into exit codes.

Exit codes: 0 fine, 1 found a problem, 2 wrong usage or configuration. An error is one line on stderr, a
refused configuration one for each thing that is wrong. A reader that closes the pipe early, as `head` does, has had
what it wanted: no message, exit 0. Output that cannot be written, to a full disk or a closed file, is exit 1.

A command's module is imported when the command is used and not before, so that `extproc log` loads no gRPC.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from extproc.cli import output
from extproc.errors import ConfigError, ExtprocError
from extproc.processes import stdio

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Final = {
    "up": "Run the whole stack on this machine: Envoy, the sidecar, demo backends.",
    "serve": "Run the sidecar alone, for an Envoy of your own.",
    "follow": "Make spans and metrics of the journal.",
    "init": "Write the shipped Envoy configuration and settings out for editing.",
    "check": "Check the sidecar's settings and Envoy's configuration together.",
    "publish": "Write the Envoy configuration where a running Envoy reads it.",
    "log": "List exchanges, newest last.",
    "show": "Show one exchange, or write its exact bytes.",
    "inflight": "List what is in flight: now, at a moment, or when the sidecar died.",
    "incidents": "Say when a backend died, hung or froze, and which request may have done it.",
    "export": "Write exchanges for other programs: JSON lines, Parquet, CSV, HAR, OpenAI's batch input.",
    "ship": "Put closed segments into a bucket, and rows of their exchanges as Parquet beside them.",
    "erase": "Take a person's exchanges out of the journal, or out of a bucket.",
    "status": "Say how the recorder is: is it recording, what is in flight where, how long the disk lasts.",
    "page": "Serve a page that shows the journal: what is in flight, exchanges, incidents, the recorder.",
    "replay": "Send a recorded request again, or all of an incident, and say what that does to the server.",
    "quarantine": "Keep requests from backends that they may kill.",
    "verify": "Check every line and every body of the journal.",
    "index": "Make the index of the journal, or compare it with the journal.",
    "reconcile": "Compare Envoy's access log with the journal: what passed without us.",
    "load": "Send a bounded load, and say what came of it.",
    "mock-llm": "Run a demo LLM backend.",
    "completion": "Print what makes a shell complete commands, options and ids.",
}
"""Every command with the first line of its help, in the order in which one meets them."""


class _Commands(click.Group):
    """A group whose commands are modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module("extproc.cli." + cmd_name.replace("-", "_"))
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, 1)
            hint = f" Did you mean {close[0]}?" if close else " See 'extproc --help'."
            ctx.fail(f"No such command {output.escape(name)!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import every command here, for the first line of its help.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        # As above.
        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except OSError as error:  # here, `--help` and `--version` print
            _end_for(error)

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except ConfigError as error:
            _fail(error.lines, 2)
        except ExtprocError as error:
            _fail(error.lines, 1)
        except OSError as error:
            _end_for(error)


def _end_for(error: OSError) -> NoReturn:
    """End for what the system refused, when it is said of which file."""
    if isinstance(error, BrokenPipeError):
        raise click.exceptions.Exit(0) from None
    if error.filename is None:
        raise error
    _fail([f"{os.fsdecode(error.filename)}: {error.strerror}"], 1)


def _fail(lines: Sequence[str], code: int) -> NoReturn:
    for line in lines:
        click.echo(f"extproc: {output.escape(line)}", err=True)
    raise click.exceptions.Exit(code) from None


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from extproc import __version__

        click.echo(f"extproc {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version.",
)
def group() -> None:
    """A flight recorder for LLM traffic behind Envoy.

    \b
    Examples:
      extproc up                                  the whole stack with demo backends
      extproc up --backend http://gpu7:8000       in front of an existing server
      extproc log --since 10m                     what went through
      extproc inflight --at-crash                 what was running when it died
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    stdio.prepare()
    group.main(None if arguments is None else list(arguments), prog_name="extproc")
