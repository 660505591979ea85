"""`extproc check`: the sidecar's settings and Envoy's configuration, before anything runs on them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from extproc import config
from extproc.cli import options, output


@click.command
@options.config_file
@click.option("--envoy-dir", metavar="DIR", help="What to check. [default: envoy, else the shipped one]")
@click.option("--backend", "backends", multiple=True, metavar="URL", help="LLM server; more than once for several.")
@click.option("--json", "as_json", is_flag=True, help="One object a line: level, file, line, column, path, message.")
def command(config_path: Path | None, as_json: bool, **overrides: str | tuple[str, ...] | None) -> None:
    """Check the sidecar's settings and Envoy's configuration together.

    Each finding is a line on stdout: file, line, column, what was expected, what was seen. Checked are the YAML;
    the type of every message (unknown fields, wrong types, enum values that do not exist); the names by which parts
    refer to each other; what the recorder relies on, with the settings of extproc.yaml; certificates; names that do
    not resolve; and, where the program is on this machine, Envoy's own validation. Exit code 0: fine, warnings or
    not. 1: there are errors, and `publish` would refuse it. 2: wrong usage or settings.

    \b
    Examples:
      extproc check
      extproc check --envoy-dir envoy/examples/model-routing --config envoy/examples/model-routing/extproc.yaml
      extproc check --json | jq .message
    """
    from extproc.envoy.check import check, compose
    from extproc.envoy.config import files, names
    from extproc.envoy.publish import publish
    from extproc.telemetry import otlp

    settings = config.load(config_path, overrides=overrides)
    source = publish.directory(settings)
    documents, problems = files.read_all(source)
    report = check.syntax(problems) if problems else check.types(documents)
    if not report.errors:
        target = settings.data_dir / "run" / "envoy"
        documents = check.in_form(documents)
        more = [*compose.findings(Path()), *files.strays(source)]
        deployment = publish.settings_of(settings, otlp.endpoint(settings, os.environ), target)
        try:
            asyncio.run(publish.put_in(deployment, documents))
            report = check.check(documents, settings, [*more, *names.findings(documents)])
        except publish.Refused as refused:
            report = refused.report
    for finding in report.findings:
        line = output.json_line(finding.fields()) if as_json else output.escape(str(finding))
        click.echo(line)
    if not report.envoy_asked and not report.errors:
        click.echo("Envoy itself was not asked: there is no such program on this machine", err=True)
    if report.errors:
        click.echo(f"{len(report.errors)} {'error' if len(report.errors) == 1 else 'errors'}", err=True)
        click.get_current_context().exit(1)
    if output.is_terminal():
        click.echo("nothing is wrong" if not report.findings else "no errors")
