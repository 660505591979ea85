"""`extproc publish`: the Envoy configuration, for an Envoy that somebody else starts."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc import config, logs
from extproc.cli import options, output
from extproc.processes import signals

if TYPE_CHECKING:
    from extproc.envoy.publish.publish import Publisher

log = logging.getLogger("extproc.publish")


@click.command
@options.config_file
@click.option("--envoy-dir", metavar="DIR", help="What to publish. [default: envoy, else the shipped one]")
@click.option("--to", "target", type=click.Path(path_type=Path), metavar="DIR", help="[default: DATA_DIR/run/envoy]")
@click.option("--backend", "backends", multiple=True, metavar="URL", help="LLM server; more than once for several.")
@click.option("--listen", metavar="ADDRESS", help="Where the sidecar listens, as for `serve`.")
@click.option("--workers", metavar="N", help="Worker processes of the sidecar. [default: 1]")
@click.option(
    "--sidecar",
    "sidecars",
    multiple=True,
    metavar="ADDRESS",
    help="Where a worker listens, as `serve` prints it; once for each, of several sidecars. Instead of --listen.",
)
@click.option("--data-dir", metavar="DIR", help="Directory of the journal. [default: data]")
@click.option("--otlp", metavar="URL", help="OTLP/gRPC collector for spans. [default: OTEL_EXPORTER_OTLP_ENDPOINT]")
@click.option("--resolve", type=click.FloatRange(0), metavar="SECONDS", help="Wait so long for the backends' names.")
@click.option("--watch", is_flag=True, help="Stay, and publish after every change of the directory.")
@click.option("--ready-file", type=click.Path(path_type=Path), metavar="FILE", help="Made once something is live.")
def command(
    config_path: Path | None,
    target: Path | None,
    sidecars: tuple[str, ...],
    resolve: float | None,
    watch: bool,
    ready_file: Path | None,
    **overrides: str | tuple[str, ...] | None,
) -> None:
    """Write the Envoy configuration where a running Envoy reads it.

    The files of the directory, over the shipped ones, get the settings of the deployment: backends, where the sidecar
    listens, ports, the collector. They are checked as `extproc check` does it, and each is renamed into place, which
    is what Envoy notices. What is not right is refused with its file, line and column, and what was live goes on.
    With --watch every later edit is live within a second or two, whatever way the editor writes its files.

    \b
    Examples:
      extproc publish --to /run/envoy --listen unix:/run/extproc/extproc.sock
      extproc publish --to /run/envoy --backend http://gpu7:8000 --otlp http://jaeger:4317
      extproc publish --to /run/envoy --sidecar unix:/run/a/extproc.sock --sidecar unix:/run/b/extproc.sock
      extproc publish --to /run/envoy --watch
    """
    from extproc.envoy.publish import publish
    from extproc.envoy.publish.claim import claimed
    from extproc.telemetry import otlp

    settings = config.load(config_path, overrides=overrides)
    logs.setup("publish", settings.log_format)
    if resolve is not None:
        publish.resolve(settings.backends, resolve)
    target = target or settings.data_dir / "run" / "envoy"
    addresses = [config.listen_address(each, "--sidecar") for each in sidecars]
    deployment = publish.settings_of(settings, otlp.endpoint(settings, os.environ), target, addresses)
    publisher = publish.Publisher(settings, target, deployment, log.info, warn=log.warning)

    def live(paths: Sequence[Path]) -> None:
        for path in paths:
            output.announce(str(path))
        if ready_file is not None:
            ready_file.touch()

    with claimed(target, "publish"):
        asyncio.run(_run(publisher, live, watch=watch))


async def _run(publisher: Publisher, live: Callable[[Sequence[Path]], None], *, watch: bool) -> None:
    live(await publisher.publish())
    if not watch:
        await publisher.finish()
        return
    watching = asyncio.ensure_future(publisher.watch())
    signals.call_in_loop(watching.cancel)
    await asyncio.gather(watching, return_exceptions=True)
    if not watching.cancelled():
        watching.result()
