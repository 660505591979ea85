"""Options that several commands share: where the journal is, and moments as people write them."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from extproc.cli import output
from extproc.errors import ConfigError, ExtprocError
from extproc.fleet.span import EVERYTHING, Span

if TYPE_CHECKING:
    from extproc.history.answers import Answers
    from extproc.history.join import Exchange

if TYPE_CHECKING:
    from extproc.fleet.bucket import Bucket

Decorated = Callable[..., Any]

_SHOWN_IDS: Final = 10

config_file: Final = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings file. [default: extproc.yaml, when there is one]",
)

index_setting: Final = click.option(
    "--index/--no-index", default=None, help="Keep an index of the journal, for quick answers. [default: index]"
)


def journal_directories(command: Decorated) -> Decorated:
    """`--data-dir` and `--config` of a reading command; the directories come from `existing`."""
    data_dir = click.option(
        "--data-dir",
        "data_dirs",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="DIR",
        help="The journal; more than once for several. [default: data_dir of the settings, else data]",
    )
    return data_dir(config_file(command))


_BUCKET: Final = "extproc.from"
_ENDPOINT: Final = "extproc.endpoint"


def _kept(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def keep(context: click.Context, _: click.Parameter, value: str | None) -> None:
        context.meta[name] = value

    return keep


def journal_or_bucket(command: Decorated) -> Decorated:
    """The same with `--from` and `--endpoint`, of a command that also reads what was shipped (`existing`)."""
    bucket = click.option(
        "--from",
        callback=_kept(_BUCKET),
        expose_value=False,
        metavar="URL",
        help="Instead of a journal here: what `extproc ship` has put there, of all machines.",
    )
    endpoint = click.option(
        "--endpoint",
        callback=_kept(_ENDPOINT),
        expose_value=False,
        metavar="URL",
        help="With --from: of an S3 that is not Amazon's. [default: AWS_ENDPOINT_URL]",
    )
    return bucket(endpoint(journal_directories(command)))


def bucket_url() -> str | None:
    """What `--from` says, of the command that runs."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_BUCKET)


def where(data_dirs: Sequence[Path], config_path: Path | None) -> list[str]:
    """The arguments by which the command that runs was told where the journal is, for another one."""
    meta = click.get_current_context().meta
    given = [("--config", config_path), ("--from", meta.get(_BUCKET)), ("--endpoint", meta.get(_ENDPOINT))]
    given += [("--data-dir", each) for each in data_dirs]
    return [word for name, value in given if value is not None for word in (name, str(value))]


def opened_bucket() -> Bucket:
    """The bucket of `--from`, of a command that was given one."""
    from extproc.fleet.bucket import Bucket

    context = click.get_current_context()
    return Bucket.open(str(context.meta[_BUCKET]).rstrip("/"), context.meta.get(_ENDPOINT))


def fetched(url: str, seconds_of: Span, *, bodies: bool = True) -> list[Path]:
    """What is in a bucket of this time, as data directories that go when the command has ended."""
    from extproc.fleet import view
    from extproc.fleet.bucket import Bucket

    context = click.get_current_context()
    bucket = Bucket.open(url.rstrip("/"), context.meta.get(_ENDPOINT))
    with output.Progress("fetching") as progress:
        progress(url)
        directories = context.with_resource(view.opened(bucket, seconds_of, bodies=bodies))
    if not directories:
        click.echo(f"extproc: {output.escape(url)}: there is nothing of that time", err=True)
    return directories


def existing(
    data_dirs: Sequence[Path], config_path: Path | None, seconds_of: Span = EVERYTHING, *, bodies: bool = True
) -> list[Path]:
    """The journal's directories, each of which is there. With `--data-dir` no settings are read. With `--from` they are
    made of what a bucket has of `span`; without `bodies` only of what stands in records."""
    url = bucket_url()
    if url is not None:
        if data_dirs:
            raise click.UsageError("--from and --data-dir exclude each other.")
        return fetched(url, seconds_of, bodies=bodies)
    directories = list(data_dirs)
    if not directories:
        from extproc import config

        directories.append(config.load(config_path).data_dir)
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{directory}: there is no such data directory; name one with --data-dir")
    return directories


def jaeger_url(config_path: Path | None) -> str:
    """Where Jaeger is. A mistake in settings that nobody named is no reason to show nothing: then the default."""
    from extproc import config

    try:
        return config.load(config_path).jaeger_url
    except ConfigError:
        if config_path is not None:
            raise
        return config.Config().jaeger_url


@contextlib.contextmanager
def answers(directories: Sequence[Path]) -> Iterator[Answers]:
    """Who answers from these directories, says on stderr where an index is missing, and how far it is with reading."""
    from extproc.history.answers import Answers  # not for `--help`, nor for the commands that ask nothing

    with output.Progress("reading the journal") as progress:

        def warn(text: str) -> None:
            if bucket_url() is None:  # what was shipped has no index
                progress.clear()
                click.echo(f"extproc: {output.escape(text)}", err=True)

        with Answers(directories, warn, progress) as asked:
            yield asked


def one(id: str, directories: Sequence[Path]) -> Exchange:
    """The one exchange that is called so, or the last one. ExtprocError when there is none, or more than one."""
    with answers(directories) as asked:
        if id in _LATEST:
            return _latest(id, asked, directories)
        found = {exchange.id: exchange for exchange in asked.find(id)}
    if not found:
        raise ExtprocError(f"no exchange in {', '.join(map(str, directories))} goes by {id!r}")
    if len(found) > 1:
        some = ", ".join(sorted(found)[:_SHOWN_IDS]) + (", ..." if len(found) > _SHOWN_IDS else "")
        raise ExtprocError(f"{len(found)} exchanges go by {id!r}: {some}")
    return next(iter(found.values()))


def _failed(exchange: Exchange) -> bool:
    return exchange.class_ != "ok"


_LATEST: Final[Mapping[str, Callable[[Exchange], bool]]] = {"last": lambda _: True, "last-failed": _failed}


def _latest(which: str, asked: Answers, directories: Sequence[Path]) -> Exchange:
    found = asked.latest(_LATEST[which])
    if found is None:
        what = "has failed" if which == "last-failed" else "has ended"
        raise ExtprocError(f"no exchange in {', '.join(map(str, directories))} {what}")
    return found


# Moments ---------------------------------------------------------------------------------------------------

_UNITS: Final = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
_CLOCK: Final = re.compile(r"([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?")
_DATE: Final = r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}[T ])?"
_OFFSET: Final = r"(?:Z|[+-][0-9]{2}:?[0-9]{2})?"
_PRECISION: Final = (
    (re.compile(rf"{_DATE}[0-9]{{1,2}}:[0-9]{{2}}{_OFFSET}"), timedelta(minutes=1)),
    (re.compile(rf"{_DATE}[0-9]{{1,2}}:[0-9]{{2}}:[0-9]{{2}}{_OFFSET}"), timedelta(seconds=1)),
    (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), timedelta(days=1)),
)
"""How long the time is that a text of such a form names; any other form is a moment."""


def parse_moment(text: str, now: float) -> datetime:
    """A moment from RFC 3339, a date (its local midnight), the last such clock time, or an age (10m).

    A time without an offset is local. Raises ValueError.
    """
    text = text.strip()
    if text == "now":
        return datetime.fromtimestamp(now, UTC)
    age = seconds_of(text)
    if age is not None:
        return _moment(now - age)
    if _CLOCK.fullmatch(text):
        return _last_clock_time(text, now)
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError(text)
    # A time without offset is the reader's own: the clock on the wall at three in the morning.
    return datetime.fromisoformat(text).astimezone(UTC)


def parse_interval(text: str, now: float) -> tuple[datetime, datetime]:
    """The time that a text names, as long as it is precise: `03:12` is that minute, `03:12:07` that second, `10m` a
    moment. Raises ValueError.
    """
    first = parse_moment(text, now)
    long = next((seconds_of for form, seconds_of in _PRECISION if form.fullmatch(text.strip())), timedelta())
    return first, first + max(long - timedelta(microseconds=1), timedelta())


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(seconds) from error


def _last_clock_time(text: str, now: float) -> datetime:
    local_now = datetime.fromtimestamp(now).astimezone()
    clock = text if text.index(":") == 2 else "0" + text
    moment = datetime.fromisoformat(f"{local_now:%Y-%m-%d}T{clock}").astimezone()
    if moment > local_now:
        moment = (moment.replace(tzinfo=None) - timedelta(days=1)).astimezone()
    return moment.astimezone(UTC)


class Moment(click.ParamType[Any]):
    """A moment on the command line."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return parse_moment(value, time.time())
        except (ValueError, OverflowError):
            self.fail(
                "expected a time such as 2026-11-21T03:12:00Z, '2026-11-21 03:12', a date, 03:12, 10m or 2h, "
                f"got {value!r}",
                param,
                ctx,
            )


class Interval(click.ParamType[Any]):
    """A time on the command line, from its beginning to its end: see `parse_interval`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[datetime, datetime]:
        if isinstance(value, tuple):
            return value
        Moment().convert(value, param, ctx)
        return parse_interval(value, time.time())


def seconds_of(text: str) -> float | None:
    """The seconds of a span of time with a unit, such as 24h; None for any other text."""
    if not re.fullmatch(f"(?:{_SPAN.pattern})+", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _SPAN.findall(text))


class Seconds(click.ParamType[Any]):
    """A span of time on the command line: a number of seconds, or one with a unit."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            return float(value)
        seconds = seconds_of(value)
        if seconds is not None:
            return seconds
        return self.fail(f"expected a duration such as 30, 30s or 5m, got {value!r}", param, ctx)
