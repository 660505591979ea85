"""The options that choose exchanges, the same for every command that lists, counts or exports them.

@filters.options
def command(filters: Filters, grep: str | None, ...) -> None:
    found = answers.exchanges(filters, test=body_test(grep))
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import click

from extproc.cli.options import Interval, Moment, Seconds
from extproc.core.times import moment_text
from extproc.errors import ConfigError
from extproc.fleet.span import Span
from extproc.history.extents import ALWAYS
from extproc.history.filters import Bounds, Filters, Param, check_outcome
from extproc.history.join import Exchange


class OutcomeType(click.ParamType[str]):
    """A name, a glob, or a class."""

    name = "outcome"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what can match nothing."""
        known = check_outcome(str(value).lower())
        if known is not None:
            self.fail(
                f"{value!r} is no outcome; expected a name, a glob such as upstream_*, or class:client; of {known}",
                param,
                ctx,
            )
        return str(value).lower()


class StatusType(click.ParamType[str]):
    """`502`, `5xx`, or `none` for exchanges without an answer."""

    name = "status"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form."""
        if not re.fullmatch(r"[1-9][0-9]{2}|[1-9]xx|none", str(value).lower()):
            self.fail(f"{value!r} is no status; expected 502, 5xx or none", param, ctx)
        return str(value).lower()


class Range(click.ParamType[Any]):
    """`N` or more, `N..M`, `..M`."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bounds:
        """Check the form."""
        if isinstance(value, Bounds):
            return value
        match = re.fullmatch(r"(\d*)(?:(\.\.)(\d*))?", value)
        if match is None or not (match[1] or match[3]):
            self.fail(f"{value!r} is no range; expected 1000 (or more), 10..1000 or ..10", param, ctx)
        return Bounds(int(match[1]) if match[1] else None, int(match[3]) if match[3] else None)


class Glob(click.ParamType[Any]):
    """A text in which * and ? match."""

    name = "glob"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


_GLOB: Final = Glob()


def _many(flag: str, name: str, metavar: str, what: str, type: Any = _GLOB) -> Callable[..., Any]:
    return click.option(flag, name, type=type, multiple=True, metavar=metavar, help=what)


_TIMES: Final = (
    click.option("--since", type=Moment(), metavar="TIME", help="Started at this time or later."),
    click.option("--until", type=Moment(), metavar="TIME", help="Started before this time."),
    click.option("--at", "at", type=Interval(), metavar="TIME", help="In flight at this time; 03:12 is that minute."),
    click.option(
        "--window", type=Seconds(), default=0.0, metavar="SECONDS", help="With --at: or up to so long before or after."
    ),
)
_ENDS: Final = (
    _many("--outcome", "outcomes", "OUTCOME", "Ended so: ok, upstream_*, class:client, in_flight, ...", OutcomeType()),
    click.option("--failed", is_flag=True, help="Ended otherwise than well: every class but ok."),
    _many("--status", "statuses", "STATUS", "HTTP status: 502, 5xx, or none.", StatusType()),
)
_WHERE: Final = (
    _many("--model", "models", "MODEL", "Model asked for or answering."),
    _many("--path", "paths", "PATH", "Path, with or without its query."),
    _many("--method", "methods", "METHOD", "HTTP method."),
    _many("--upstream", "upstreams", "ADDRESS", "The backend, with or without its port."),
    _many("--cluster", "clusters", "CLUSTER", "Envoy's cluster."),
    _many("--route", "routes", "ROUTE", "Envoy's route."),
    _many("--client", "clients", "ADDRESS", "The client's address, with or without its port."),
    _many("--key", "keys", "MARK", "The mark of the client's key, as show prints it.", str),
    _many("--api", "apis", "API", "chat.completions, completions, embeddings, responses, messages."),
)
_WHAT: Final = (
    click.option("--min-duration", type=Seconds(), metavar="SECONDS", help="Took so long or longer."),
    click.option("--min-ttft", type=Seconds(), metavar="SECONDS", help="So long or longer to the first token."),
    _many("--finish", "finishes", "REASON", "A finish reason: stop, length, tool_calls, ..."),
    click.option("--tokens", type=Range(), metavar="RANGE", help="Tokens in and out together: 1000 (or more), 10..99."),
    _many(
        "--param", "params", "NAME[=VALUE]", "A request parameter that is there, or so: response_format.type=text.", str
    ),
    _many("--fingerprint", "fingerprints", "HASH", "The parameters' fingerprint, or its beginning.", str),
    click.option("--grep", metavar="REGEX", help="In a body, request or answer (RE2)."),
    _many("--id", "ids", "ID", "An id, as `extproc show` takes it.", str),
)

NAMES: Final = (
    *("since", "until", "at", "window", "outcomes", "failed", "statuses", "models", "paths", "methods", "upstreams"),
    *("clusters", "routes", "clients", "keys", "apis", "min_duration", "min_ttft", "finishes", "tokens", "params"),
    *("fingerprints", "grep", "ids"),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options. It gets them as `filters`, and the regular expression of --grep as `grep`."""

    @functools.wraps(command)
    def filtered(**values: Any) -> Any:
        given = {name: values.pop(name) for name in NAMES}
        return command(filters=_filters(given), grep=given["grep"], **values)

    for option in reversed((*_TIMES, *_ENDS, *_WHERE, *_WHAT)):
        filtered = option(filtered)
    return filtered


def of_words(words: Sequence[str]) -> tuple[Filters, str | None]:
    """Filters, and the expression of --grep, from the words of a command line. Raises ConfigError, as click says it."""
    try:
        found: tuple[Filters, str | None] = _chosen.main(list(words), prog_name="filters", standalone_mode=False)
    except click.ClickException as error:
        raise ConfigError(error.format_message()) from None
    return found


def test(filters: Filters, grep: str | None) -> Callable[[Exchange], bool]:
    """What all filters together say of an exchange, --grep last: it reads bodies.

    Raises ConfigError for an expression that is none.
    """
    in_bodies = body_test(grep)
    if in_bodies is None:
        return filters.matches
    return lambda exchange: filters.matches(exchange) and in_bodies(exchange)


def body_test(grep: str | None) -> Callable[[Exchange], bool] | None:
    """What --grep says of an exchange with its bodies; None without it. Raises ConfigError likewise."""
    if grep is None:
        return None
    from extproc.history.grep import Grep

    return Grep(grep).finds


def _filters(given: Mapping[str, Any]) -> Filters:
    if given["window"] and given["at"] is None:
        raise click.UsageError("--window goes with --at.")
    return Filters(
        since=_text(given["since"]),
        until=_text(given["until"]),
        between=_between(given["at"], given["window"]),
        failed=given["failed"],
        min_duration_ms=_milliseconds(given["min_duration"]),
        min_ttft_ms=_milliseconds(given["min_ttft"]),
        tokens=given["tokens"],
        params=tuple(map(Param.of, given["params"])),
        **{name: tuple(given[name]) for name in _TEXTS},
    )


_TEXTS: Final = (
    *("outcomes", "statuses", "models", "paths", "methods", "upstreams", "clusters", "routes", "clients", "keys"),
    *("apis", "finishes", "fingerprints", "ids"),
)


def _between(at: tuple[datetime, datetime] | None, window: float) -> tuple[str, str] | None:
    if at is None:
        return None
    around = timedelta(seconds=window)
    return moment_text(at[0] - around), moment_text(at[1] + around)


def _text(at: datetime | None) -> str | None:
    return None if at is None else moment_text(at)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def span(filters: Filters) -> Span:
    """The time in which what is asked for began, or was in flight."""
    if filters.ids:
        return Span.of_ids(filters.ids)
    first, last = filters.between or ("", ALWAYS)
    return Span(max(filters.since or "", first), min(filters.until or ALWAYS, last), running=bool(filters.between))


@click.command(add_help_option=False)
@options
def _chosen(filters: Filters, grep: str | None) -> tuple[Filters, str | None]:
    return filters, grep
