"""`extproc up`: the whole stack on this machine, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import click

from extproc import config, logs, shell
from extproc.cli import options, output
from extproc.config import Config
from extproc.processes import page, signals
from extproc.up.stack import Stack

log = logging.getLogger("extproc.cli")

_HELLO = '{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'


async def run(settings: Config) -> None:
    """Run the stack until a signal ends it. A second one waits no longer for the exchanges that run."""
    logs.setup("up", settings.log_format)
    stack = Stack(settings)
    ending = signals.Ending(stack.hurry)
    try:
        if not await ending.unless(_work(stack, settings)):
            log.info("stopping")
    finally:
        await stack.stop()


async def _work(stack: Stack, settings: Config) -> None:
    await stack.start()
    output.announce(f"ready {stack.url}  (Envoy's admin {stack.envoy_admin_url}, ours {stack.admin_url}/readyz)")
    if stack.collector:
        output.announce(f"spans go to {stack.collector}; Jaeger: {settings.jaeger_url}")
    content_type = "-H 'content-type: application/json'"
    if stack.has_demo_backends:
        output.announce(f"try   curl -N {stack.url}/v1/chat/completions {content_type} -d '{_HELLO}'")
    else:
        output.announce(f"try   curl {stack.url}/v1/models")
    elsewhere: list[str | Path] = [] if settings.data_dir == Config().data_dir else ["--data-dir", settings.data_dir]
    output.announce(f"then  {shell.command('log', *elsewhere)}")
    if stack.open_to:
        keep = "the address of the listener in envoy.yaml can keep it to this one"
        output.announce(f"open  to other machines too, on {stack.open_to}; {keep}")
    beside = page.beside(settings, log.warning, output.announce)
    async with beside if settings.page != "off" else contextlib.nullcontext():
        await stack.wait()


@click.command
@options.config_file
@click.option("--port", metavar="PORT", help="Envoy's port. 0: any free one. [default: 8000]")
@click.option("--admin-port", metavar="PORT", help="Port of /healthz, /readyz, /metrics, on loopback. [default: 9464]")
@click.option("--envoy-admin-port", metavar="PORT", help="Port of Envoy's admin, on loopback. [default: 9901]")
@click.option("--data-dir", metavar="DIR", help="Directory of the journal. [default: data]")
@click.option("--backend", "backends", multiple=True, metavar="URL", help="LLM server; more than once for several.")
@click.option("--workers", metavar="N", help="Worker processes of the sidecar. [default: 1]")
@click.option("--otlp", metavar="URL", help="OTLP/gRPC collector for spans. [default: OTEL_EXPORTER_OTLP_ENDPOINT]")
@options.index_setting
@click.option("--page-port", metavar="PORT", help="Port of the page, on loopback. [default: 9465]")
@click.option("--envoy-dir", metavar="DIR", help="Envoy's configuration. [default: envoy, else the shipped one]")
@click.option("--envoy-concurrency", metavar="N", help="Envoy's threads. [default: one for each core]")
def command(config_path: Path | None, **overrides: str | tuple[str, ...] | None) -> None:
    """Run the whole stack on this machine: Envoy, the sidecar, demo backends.

    Prints `ready URL` when a request would succeed. With --backend your servers stand behind Envoy instead of the two
    demo backends. Ctrl-C or SIGTERM ends everything: running exchanges get drain_seconds, a second Ctrl-C none.

    \b
    Examples:
      extproc up
      extproc up --backend http://127.0.0.1:8000 --port 8080
      extproc up --backend http://gpu1:8000 --backend http://gpu2:8000 --workers 2
      extproc up --otlp http://127.0.0.1:4317
    """
    asyncio.run(run(config.load(config_path, overrides=overrides)))
