"""`extproc follow`: the follower alone, beside a sidecar without one, or over an old journal."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extproc import config, logs
from extproc.cli import options, output
from extproc.config import Config
from extproc.errors import ConfigError
from extproc.processes import signals

if TYPE_CHECKING:
    from extproc.history.join import Exchange
    from extproc.telemetry.metrics import Metrics
    from extproc.telemetry.tracing import Tracing

_EXPORT_SECONDS = 60.0


def back_fill(settings: Config, tracing: Tracing, since: datetime) -> int:
    """Export the spans of everything that began at `since` or later, and ended; how many there were."""
    from extproc.follow.follower import Follower

    consumer = _Since(tracing, since)
    follower = Follower(settings.data_dir, [consumer], None, keep_bodies=tracing.captures_content)
    with output.Progress("exporting") as progress:
        while follower.step():
            progress(f"{follower.exchanges} exchanges")
            consumer.wait()
        follower.finish()
        consumer.wait()
    return consumer.count


class _Since:
    """Hands on what began at a moment or later, and no faster than it is exported: nothing is to be dropped."""

    def __init__(self, tracing: Tracing, since: datetime) -> None:
        self.count = 0
        self._tracing = tracing
        self._since = since.timestamp()

    def exchange(self, exchange: Exchange) -> None:
        with contextlib.suppress(ValueError):
            if datetime.fromisoformat(exchange.started_at).timestamp() >= self._since:
                self.count += 1
                self._tracing.exchange(exchange)

    def record(self, record: Any) -> None:
        """Of no exchange: no span."""

    def sequence(self) -> int:
        return self._tracing.sequence()

    def flushed_to(self, sequence: int) -> bool:
        return self._tracing.flushed_to(sequence)

    def wait(self) -> None:
        """Until everything is out of our hands."""
        pause = threading.Event()
        while not self.flushed_to(self.sequence()):
            pause.wait(0.02)


def go_on(settings: Config, tracing: Tracing | None, admin_port: int | None) -> None:
    """Follow the journal until SIGTERM or SIGINT."""
    from extproc.follow import checkpoint, process

    with checkpoint.locked(settings.data_dir) as kept:
        follower, metrics = process.made(settings, tracing, kept)
        stopping = threading.Event()
        signals.call(stopping.set)
        with contextlib.nullcontext() if admin_port is None else _served(settings, admin_port, metrics):
            output.announce("following")
            process.follow(follower, tracing, stopping, lambda _state: None)
        process.end(follower, tracing)


@contextlib.contextmanager
def _served(settings: Config, port: int, metrics: Metrics) -> Iterator[None]:
    """/metrics, by a loop in a thread of its own."""
    from extproc.service.sidecar.admin import Admin

    async def text(*, open_metrics: bool = False) -> bytes:
        return await asyncio.to_thread(metrics.text, open_metrics=open_metrics)

    loop = asyncio.new_event_loop()
    admin = Admin(settings.admin_host, port, lambda: (True, {}), text)
    bound = loop.run_until_complete(admin.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    output.announce(f"metrics http://{config.in_url(config.near_host(settings.admin_host))}:{bound}/metrics")
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(admin.stop())
        loop.close()


@click.command
@options.config_file
@click.option("--data-dir", metavar="DIR", help="Directory of the journal. [default: data]")
@click.option("--otlp", metavar="URL", help="OTLP/gRPC collector for spans. [default: OTEL_EXPORTER_OTLP_ENDPOINT]")
@options.index_setting
@click.option("--since", type=options.Moment(), metavar="TIME", help="Export the spans from this time on, and end.")
@click.option("--admin-port", type=click.IntRange(0, 65535), metavar="PORT", help="Serve /metrics there. [default: no]")
def command(
    config_path: Path | None,
    data_dir: str | None,
    otlp: str | None,
    index: bool | None,
    since: datetime | None,
    admin_port: int | None,
) -> None:
    """Make spans and metrics of the journal.

    `up` and `serve` do this by themselves. Alone it is for a journal that nobody follows, and, with --since, for spans
    that a collector has missed: everything that began at that time or later and has ended is exported once more, with
    the ids that it had, and the follower's own position stays where it is.

    \b
    Examples:
      extproc follow --data-dir data --since 2h --otlp http://127.0.0.1:4317
      extproc follow --data-dir /var/lib/extproc --admin-port 9464
    """
    from extproc.telemetry.tracing import Tracing

    settings = config.load(config_path, overrides={"data_dir": data_dir, "otlp": otlp, "index": index})
    settings = dataclasses.replace(settings, data_dir=settings.data_dir.absolute())
    if not settings.data_dir.is_dir():
        raise ConfigError(f"{settings.data_dir}: there is no such data directory; name one with --data-dir")
    logs.setup("follow", settings.log_format)
    tracing = Tracing.create(settings, os.environ)
    if since is None:
        go_on(settings, tracing, admin_port)
        return
    if tracing is None:
        raise ConfigError("--since exports spans: name a collector with --otlp, such as http://127.0.0.1:4317")
    count = back_fill(settings, tracing, since)
    tracing.close(_EXPORT_SECONDS)
    click.echo(f"{count} exchanges: {tracing.exported} spans exported, {tracing.unsampled} not sampled")
    lost = tracing.failed + tracing.dropped
    if lost:
        click.echo(f"{lost} spans were not taken by the collector", err=True)
        raise click.exceptions.Exit(1)
