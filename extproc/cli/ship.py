"""`extproc ship`: closed segments into a bucket, where those of all machines are read together."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.cli import options, output
from extproc.errors import ConfigError, ExtprocError, JournalError
from extproc.processes import signals

if TYPE_CHECKING:
    from extproc.fleet.ship import Shipper

_EVERY_SECONDS = 60.0


@click.command
@click.option("--to", "url", metavar="URL", help="s3://BUCKET/PREFIX, gs://, az:// or file:///DIR. [default: ship_to]")
@click.option("--endpoint", metavar="URL", help="Of an S3 that is not Amazon's. [default: AWS_ENDPOINT_URL]")
@click.option("--every", type=options.Seconds(), default=_EVERY_SECONDS, metavar="SECONDS", help="[default: 60s]")
@click.option("--once", is_flag=True, help="Ship what is closed now, and end; exit code 1 where something was left.")
@options.journal_directories
def command(
    url: str | None,
    endpoint: str | None,
    every: float,
    once: bool,
    data_dirs: tuple[Path, ...],
    config_path: Path | None,
) -> None:
    """Put closed segments into a bucket, and rows of their exchanges as Parquet beside them.

    `extproc serve` does so by itself with the setting `ship_to`. Every object is made once and never overwritten, so
    that this may be ended at any time, and begun again. `extproc log --from URL` and the like read what is there;
    DuckDB, ClickHouse, Trino and Spark read the Parquet files (docs/fleet.md). Credentials and region are taken from
    the environment, as the cloud's own tools take them.

    \b
    Examples:
      extproc ship --to s3://recordings/production
      extproc ship --to s3://recordings --endpoint http://127.0.0.1:8333 --once
    """
    from extproc import config
    from extproc.fleet.bucket import Bucket
    from extproc.fleet.ship import Shipper

    if url is None and (url := config.load(config_path).ship_to) is None:
        raise ConfigError("where to? Name a bucket with --to, or with the setting ship_to")
    ending = threading.Event()
    signals.call(ending.set)
    bucket = Bucket.open(url.rstrip("/"), endpoint)
    shippers = [Shipper(each, bucket, stopping=ending.is_set) for each in options.existing(data_dirs, config_path)]
    told = ""
    while True:
        told = _rounds(shippers, told, once=once)
        if once or ending.wait(every):
            return


def _rounds(shippers: list[Shipper], told: str, *, once: bool) -> str:
    """One round of each. What stands in the way is said when it is new; with `once` it is an error."""
    errors: list[str] = []
    for shipper in shippers:
        try:
            done = shipper.round()
        except JournalError as error:
            errors.append(str(error))
            continue
        errors += done.errors
        if done.segments or once:
            click.echo(f"{done.segments} segments shipped, {done.objects} objects made")
        if done.unfound:
            errors.append(f"{done.unfound} exchanges have no row: `extproc verify` says what is damaged")
    if errors and once:
        raise ExtprocError("; ".join(errors))
    text = "\n".join(errors)
    for line in errors if text != told else ():
        click.echo(f"extproc: {output.escape(line)}", err=True)
    return text
