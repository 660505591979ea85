"""Which exchanges are meant: the filters that `log`, `inflight`, `--by` and `export` share.

    filters = Filters(failed=True, upstreams=("10.0.0.7:*",))
    filters.matches(exchange)

Filters of different kinds all have to hold; of several values of one kind any one is enough. Texts are globs, in which
`*` stands for any text and `?` for one character. An exchange in flight has neither outcome nor status.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from extproc.core.joined import NO_LLM, Exchange, Llm
from extproc.core.marks import MARK
from extproc.core.outcome import CLASSES, Outcome
from extproc.history.identifier import Identifier

IN_FLIGHT: Final = "in_flight"
"""Stands where the outcome of an exchange that has not ended would stand."""
CLASS: Final = "class:"
NONE: Final = "none"
"""As a status: there was no answer."""

Test = Callable[[Exchange], bool]

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Bounds:
    """A range of whole numbers, both ends in it; None is no bound."""

    least: int | None = None
    most: int | None = None

    def holds(self, number: int | None) -> bool:
        """Whether the number is there, and within."""
        if number is None:
            return False
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)


@dataclass(frozen=True, slots=True)
class Param:
    """A request parameter that is there, or has a value. `name` may lead into objects: `response_format.type`."""

    name: str
    value: str | None = None
    """JSON, or else text: a glob for texts."""

    @classmethod
    def of(cls, text: str) -> Param:
        """`NAME` or `NAME=VALUE`."""
        name, equals, value = text.partition("=")
        return cls(name, value if equals else None)

    def holds(self, params: Any) -> bool:
        """Whether the parameters of a request are so."""
        found = _at(params, self.name)
        if found is _ABSENT or self.value is None:
            return found is not _ABSENT
        if isinstance(found, str):
            return glob(found, self.value)
        try:
            return bool(type(wanted := json.loads(self.value)) is type(found) and wanted == found)
        except ValueError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What is asked for. Times are RFC 3339 in UTC, as records have them; durations are milliseconds."""

    since: str | None = None
    """Started then or later."""
    until: str | None = None
    """Started before then."""
    between: tuple[str, str] | None = None
    """Was in flight at some moment from the first to the second."""
    outcomes: tuple[str, ...] = ()
    """Names, globs, or classes: `ok`, `upstream_*`, `class:client`, `in_flight`."""
    failed: bool = False
    """Ended, and its class is not `ok`."""
    statuses: tuple[str, ...] = ()
    """`502`, `5xx` or `none`."""
    models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """With their query or without."""
    methods: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    """Addresses, with their port or without."""
    clusters: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    """Addresses, with their port or without."""
    keys: tuple[str, ...] = ()
    """Marks of credentials, with `redacted:` or without."""
    apis: tuple[str, ...] = ()
    min_duration_ms: float | None = None
    min_ttft_ms: float | None = None
    finishes: tuple[str, ...] = ()
    tokens: Bounds | None = None
    """Tokens in and out together, as the backend counted them."""
    params: tuple[Param, ...] = ()
    fingerprints: tuple[str, ...] = ()
    """Or their beginnings."""
    ids: tuple[str, ...] = ()

    def matches(self, exchange: Exchange) -> bool:
        """Whether an exchange is meant."""
        return all(test(exchange) for test in _tests(self))


@functools.lru_cache(maxsize=8)
def _tests(filters: Filters) -> tuple[Test, ...]:
    """One test for each kind of filter that was given."""
    given = ((make, getattr(filters, name)) for name, make in _KINDS.items())
    return tuple(make(value) for make, value in given if value is not None and value is not False and value != ())


# What is asked of an exchange ----------------------------------------------------------------------------------


def tokens(exchange: Exchange) -> tuple[int | None, int | None]:
    """Tokens in and out as the backend counted them, by OpenAI's names or Anthropic's."""
    usage = _llm(exchange).usage
    if not usage:
        return None, None
    sent = usage.get("prompt_tokens", usage.get("input_tokens"))
    got = usage.get("completion_tokens", usage.get("output_tokens"))
    return _whole(sent), _whole(got)


def total_tokens(exchange: Exchange) -> int | None:
    """Tokens in and out together; None where neither was counted."""
    known = [number for number in tokens(exchange) if number is not None]
    return sum(known) if known else None


def model(exchange: Exchange) -> str:
    """The model that was asked for, or that answered."""
    llm = _llm(exchange)
    return str(llm.model or llm.response_model or "")


def without_port(address: str) -> str:
    """The host of an address; the address itself where it has no port."""
    return address.rpartition(":")[0] or address


def _whole(number: Any) -> int | None:
    kind = type(number)
    return int(number) if kind is int or kind is float else None


def _llm(exchange: Exchange) -> Llm:
    return exchange.llm or NO_LLM


def _ended(exchange: Exchange) -> str:
    """When it ended; of one in flight, later than any time."""
    return exchange.ended_at or "~"


def _has_outcome(exchange: Exchange, wanted: str) -> bool:
    if wanted.startswith(CLASS):
        return exchange.class_ is not None and glob(exchange.class_, wanted.removeprefix(CLASS))
    return glob(exchange.outcome or IN_FLIGHT, wanted)


def _has_status(exchange: Exchange, wanted: str) -> bool:
    status = exchange.status
    if wanted == NONE or status is None:
        return wanted == NONE and status is None
    return str(status) == wanted or (wanted.endswith("xx") and str(status)[0] == wanted[0])


def _any_of(test: Callable[[Exchange, Any], bool]) -> Callable[[tuple[Any, ...]], Test]:
    """A filter whose values are tested one by one."""
    return lambda wanted: lambda exchange: any(test(exchange, value) for value in wanted)


def _texts(values: Callable[[Exchange], Iterable[Any]]) -> Callable[[tuple[str, ...]], Test]:
    """A filter of globs, for the texts that an exchange has."""

    def test(exchange: Exchange, pattern: str) -> bool:
        return any(isinstance(text, str) and glob(text, pattern) for text in values(exchange))

    return _any_of(test)


def _address(name: str) -> Callable[[Exchange], Iterable[Any]]:
    def values(exchange: Exchange) -> Iterable[Any]:
        address = getattr(exchange, name)
        if not isinstance(address, str):
            return ()
        return addresses(address)

    return values


def addresses(address: str) -> tuple[str, ...]:
    """What an address may be called: with its port, without, and an IPv6 one without its brackets."""
    return address, without_port(address), without_port(address).strip("[]")


def _paths(exchange: Exchange) -> Iterable[Any]:
    path = str(exchange.path or "")
    return path, path.partition("?")[0]


def _models(exchange: Exchange) -> Iterable[Any]:
    return _llm(exchange).model, _llm(exchange).response_model


def _finishes(exchange: Exchange) -> Iterable[Any]:
    return _llm(exchange).finish_reasons or ()


def _at_least(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and value >= least


def _at(params: Any, name: str) -> Any:
    """A member by its name, or by the names that lead to it."""
    found: Any = params
    if isinstance(params, Mapping) and name in params:
        return params[name]
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def glob(text: str, pattern: str) -> bool:
    """Whether a text is as a pattern has it: `*` any text, `?` one character."""
    return _expression(pattern).fullmatch(text) is not None


@functools.lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    # Not fnmatch: brackets are ordinary characters of a path.
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _marks(keys: tuple[str, ...]) -> Test:
    marks = {key.removeprefix(MARK) for key in keys}
    return lambda exchange: str(exchange.key or "").removeprefix(MARK) in marks


def _identifiers(ids: tuple[str, ...]) -> Test:
    identifiers = [Identifier.of(id) for id in ids]
    return lambda exchange: any(identifier.names(exchange) for identifier in identifiers)


_KINDS: Final[Mapping[str, Callable[[Any], Test]]] = {
    "since": lambda since: lambda exchange: exchange.started_at >= since,
    "until": lambda until: lambda exchange: exchange.started_at < until,
    "between": lambda span: lambda exchange: exchange.started_at <= span[1] and _ended(exchange) >= span[0],
    "outcomes": _any_of(_has_outcome),
    "failed": lambda _: lambda exchange: exchange.class_ not in (None, "ok"),
    "statuses": _any_of(_has_status),
    "models": _texts(_models),
    "paths": _texts(_paths),
    "methods": _texts(lambda exchange: (exchange.method,)),
    "upstreams": _texts(_address("upstream")),
    "clusters": _texts(lambda exchange: (exchange.cluster,)),
    "routes": _texts(lambda exchange: (exchange.route,)),
    "clients": _texts(_address("client")),
    "keys": _marks,
    "apis": _texts(lambda exchange: (_llm(exchange).api,)),
    "min_duration_ms": lambda least: lambda exchange: _at_least(exchange.duration_ms, least),
    "min_ttft_ms": lambda least: lambda exchange: _at_least(_llm(exchange).ttft_ms, least),
    "finishes": _texts(_finishes),
    "tokens": lambda bounds: lambda exchange: bounds.holds(total_tokens(exchange)),
    "params": _any_of(lambda exchange, param: param.holds(_llm(exchange).params)),
    "fingerprints": lambda wanted: lambda exchange: str(_llm(exchange).fingerprint or "").startswith(wanted),
    "ids": _identifiers,
}
"""How each filter tests an exchange, by its name."""


def check_outcome(pattern: str) -> str | None:
    """What is wrong with an outcome that somebody asked for: it can match nothing. None when it is right."""
    if pattern.startswith(CLASS):
        known: tuple[str, ...] = CLASSES
        pattern = pattern.removeprefix(CLASS)
    else:
        known = (*(outcome.value for outcome in Outcome), IN_FLIGHT)
    return None if any(glob(name, pattern) for name in known) else ", ".join(known)
