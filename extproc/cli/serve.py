"""`extproc serve`: the sidecar alone, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

import click

from extproc import config, logs
from extproc.cli import options, output
from extproc.config import Config
from extproc.processes import notify, page, signals
from extproc.service.sidecar.sidecar import Sidecar

log = logging.getLogger("extproc.cli")


async def run(settings: Config) -> None:
    """Serve until a signal ends it. A second one waits no longer for the exchanges that run."""
    logs.setup("sidecar", settings.log_format)
    sidecar = Sidecar(settings)
    ending = signals.Ending(sidecar.hurry)
    try:
        sidecar.reserve()
        if await ending.unless(sidecar.start()):
            for address in sidecar.workers.addresses:
                output.announce(f"ready {address}")
            log.info("health and metrics: %s/readyz, /metrics", sidecar.admin_url)
            log.info("times of day without an offset are in %s", time.strftime("%Z (UTC%z)"))
            notify.send("READY=1")
            beside = page.beside(settings, log.warning, log.info)
            async with notify.watched(), beside if settings.page == "on" else contextlib.nullcontext():
                await ending.unless(sidecar.wait())
    finally:
        notify.send("STOPPING=1")
        await sidecar.stop()


@click.command
@options.config_file
@click.option("--listen", metavar="ADDRESS", help="unix:PATH or HOST:PORT. [default: DATA_DIR/run/extproc.sock]")
@click.option("--data-dir", metavar="DIR", help="Directory of the journal. [default: data]")
@click.option("--workers", metavar="N", help="Worker processes. [default: 1]")
@click.option("--otlp", metavar="URL", help="OTLP/gRPC collector for spans. [default: OTEL_EXPORTER_OTLP_ENDPOINT]")
@options.index_setting
@click.option("--admin-port", metavar="PORT", help="Port of /healthz, /readyz, /metrics, on loopback. [default: 9464]")
def command(
    config_path: Path | None,
    **overrides: str | None,
) -> None:
    """Run the sidecar alone, for an Envoy of your own.

    Prints `ready ADDRESS` for each worker: worker N > 0 adds .N to a socket's path, or N to a port. Give all of them
    to Envoy's ext_proc cluster as endpoints. SIGTERM ends it: no new exchanges, drain_seconds for those that run.
    systemd is told when it is ready (Type=notify), and that it is alive: see `extproc init --systemd`.

    \b
    Examples:
      extproc serve
      extproc serve --listen unix:/run/extproc/extproc.sock --data-dir /var/lib/extproc --workers 2
      extproc serve --listen 127.0.0.1:50051
    """
    asyncio.run(run(config.load(config_path, overrides=overrides)))
