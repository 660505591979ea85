"""`extproc page`: live traffic, exchanges, incidents, for a browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from extproc import config, logs
from extproc.cli import filters, options, output
from extproc.config import in_url, is_loopback, near_host
from extproc.errors import ConfigError, StackError
from extproc.processes import signals

if TYPE_CHECKING:
    from extproc.page.server import Settings

NICENESS: Final = 10
"""The data path has the first claim on the processor."""


@click.command
@click.option("--port", "page_port", metavar="PORT", help="Its port. 0: any free one. [default: 9465]")
@click.option("--host", "page_host", metavar="HOST", help="Its address. [default: 127.0.0.1]")
@click.option("--token-file", "page_token_file", metavar="FILE", help="Lines of NAME:TOKEN: who may read.")
@click.option(
    "--replay-to", "page_replay_to", metavar="NAME=URL,...", help="Test servers to which it may send a request again."
)
@click.option("--jaeger-url", hidden=True)
@click.option("--redact", is_flag=True, help="Show shapes and sizes instead of texts.")
@options.journal_directories
def command(
    page_port: str | None,
    page_host: str | None,
    page_token_file: str | None,
    page_replay_to: str | None,
    jaeger_url: str | None,
    redact: bool,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """Serve a page that shows the journal: what is in flight, exchanges, incidents, the recorder.

    It is reached from this machine alone; on another address it needs --token-file. Its JSON is under /api/v1,
    described by /api/v1/openapi.json. With tokens, who has read which prompt is noted in the data directory, and
    whoever has one may put requests into quarantine, and send one again to a server of --replay-to. Without, it only
    reads.

    \b
    Examples:
      extproc page
      extproc page --port 0 --data-dir /var/lib/extproc
      extproc page --host 0.0.0.0 --token-file tokens.txt
      extproc page --redact
      extproc page --token-file tokens.txt --replay-to gpu-test=http://gpu-test:8000
    """
    given = {"page_port": page_port, "page_host": page_host, "page_token_file": page_token_file}
    given |= {"page_replay_to": page_replay_to, "jaeger_url": jaeger_url}
    settings = config.load(config_path, overrides=given)
    directories = options.existing(data_dirs, config_path)
    try:
        # Only here: the HTTP server is in the extra `page`.
        from extproc.page import tokens
        from extproc.page.server import Settings
    except ModuleNotFoundError as error:
        raise ConfigError(f"page needs the extra 'page': pip install 'extproc[page]' ({error})") from None
    known = None if settings.page_token_file is None else tokens.load(settings.page_token_file)
    if known is None and not is_loopback(settings.page_host):
        raise ConfigError(f"page_host {settings.page_host} is reached from other machines; it needs --token-file")
    logs.setup("page", settings.log_format)
    os.nice(NICENESS)
    host, port = settings.page_host, settings.page_port
    servers = dict(each.split("=", 1) for each in settings.page_replay_to)
    try:
        asyncio.run(_run(Settings(directories, host, port, known, redact, settings.jaeger_url, servers=servers)))
    except OSError as error:
        raise StackError(f"page cannot listen on {in_url(host)}:{port}: {os.strerror(error.errno or 0)}") from error


async def _run(settings: Settings) -> None:
    """Until a signal ends it."""
    from extproc.page.server import serve

    def ready(host: str, port: int) -> None:
        output.announce(f"ready http://{in_url(near_host(host))}:{port}/")

    task = asyncio.current_task()
    assert task is not None
    signals.call_in_loop(task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serve(settings, filters.of_words, ready)
