"""`extproc completion SHELL`: what makes a shell complete commands, options and ids."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from extproc.errors import ExtprocError

_SHOWN: Final = 50
"""The newest so many exchanges are offered."""

_KEPT: Final = ("last", "last-failed")


def complete_id(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids that begin so, newest first, with outcome and model of each; none where there is no journal to read."""
    kept = [CompletionItem(word) for word in _KEPT if word.startswith(incomplete)]
    with contextlib.suppress(ExtprocError, OSError):
        return kept + list(_newest(ctx.params.get("data_dirs") or (), ctx.params.get("config_path"), incomplete))
    return kept


def _newest(data_dirs: tuple[Path, ...], config_path: Path | None, incomplete: str) -> Iterator[CompletionItem]:
    from extproc.cli import options, view
    from extproc.history.answers import Answers
    from extproc.history.filters import Filters

    with Answers(options.existing(data_dirs, config_path)) as asked:
        found = list(asked.exchanges(Filters(), limit=_SHOWN, running=True))
    for exchange in reversed(found):
        id = exchange.id
        if id.startswith(incomplete):
            model = (exchange.llm and exchange.llm.model) or exchange.path or ""
            yield CompletionItem(id, help=f"{view.outcome(exchange)} {model}")


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes a shell complete commands, options and ids.

    \b
    Examples:
      echo 'eval "$(extproc completion bash)"' >> ~/.bashrc
      extproc completion zsh > "${fpath[1]}/_extproc"
      extproc completion fish > ~/.config/fish/completions/extproc.fish
    """
    from extproc.cli.main import group

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(group, {}, "extproc", "_EXTPROC_COMPLETE").source())
