"""`extproc publish`: the Envoy configuration, for an Envoy that somebody else starts."""

from __future__ import annotations

import os
from pathlib import Path

import click

from extproc import config
from extproc.cli import options


@click.command
@options.config_file
@click.option("--envoy-dir", metavar="DIR", help="What to publish. [default: envoy, else the shipped one]")
@click.option("--to", "target", type=click.Path(path_type=Path), metavar="DIR", help="[default: DATA_DIR/run/envoy]")
@click.option("--backend", "backends", multiple=True, metavar="URL", help="LLM server; more than once for several.")
@click.option("--listen", metavar="ADDRESS", help="Where the sidecar listens, as for `serve`.")
@click.option("--workers", metavar="N", help="Worker processes of the sidecar. [default: 1]")
@click.option("--data-dir", metavar="DIR", help="Directory of the journal. [default: data]")
@click.option("--otlp", metavar="URL", help="OTLP/gRPC collector for spans. [default: OTEL_EXPORTER_OTLP_ENDPOINT]")
@click.option("--resolve", type=click.FloatRange(0), metavar="SECONDS", help="Wait so long for the backends' names.")
def command(
    config_path: Path | None,
    target: Path | None,
    resolve: float | None,
    **overrides: str | tuple[str, ...] | None,
) -> None:
    """Write the Envoy configuration where a running Envoy reads it.

    The files of the directory, over the shipped ones, get the settings of the deployment: backends, where the sidecar
    listens, ports, the collector. Each is renamed into place, which is what Envoy notices. What is no YAML, or has no
    place for a setting, is refused with its file and line, and what was there before stays.

    \b
    Examples:
      extproc publish --to /run/envoy --listen unix:/run/extproc/extproc.sock
      extproc publish --to /run/envoy --backend http://gpu7:8000 --otlp http://jaeger:4317
    """
    from extproc.envoy import publish
    from extproc.telemetry import otlp

    settings = config.load(config_path, overrides=overrides)
    if resolve is not None:
        publish.resolve(settings.backends, resolve)
    collector = otlp.endpoint(settings, os.environ)
    for path in publish.publish(settings, target or settings.data_dir / "run" / "envoy", collector):
        click.echo(path)
