"""Exchanges counted by something that they have in common: errors and latency for each value."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from extproc.core.joined import NO_LLM, Exchange
from extproc.core.outcome import is_failure, outcome_class
from extproc.core.records import Attempt
from extproc.history import filters
from extproc.history.index.groups import Group

NONE: Final = "-"
"""Stands for exchanges that have none: no model, no backend reached."""


def _client(exchange: Exchange) -> str | None:
    client = exchange.client
    return None if client is None else filters.without_port(str(client))


def _llm(name: str) -> Callable[[Exchange], str | None]:
    return lambda exchange: getattr(exchange.llm, name, None)


def _status(exchange: Exchange) -> str | None:
    status = exchange.status
    return None if status is None else str(status)


KEYS: Final[Mapping[str, Callable[[Exchange], str | None]]] = {
    "upstream": lambda exchange: exchange.upstream,
    "model": lambda exchange: filters.model(exchange) or None,
    "route": lambda exchange: exchange.route,
    "outcome": lambda exchange: exchange.outcome or filters.IN_FLIGHT,
    "status": _status,
    "client": _client,  # its address: the port is another one for each connection
    "key": lambda exchange: exchange.key,
    "api": _llm("api"),
    "fingerprint": _llm("fingerprint"),
    "hour": lambda exchange: f"{exchange.started_at[:13]}:00Z",
}


class Tally:
    """The exchanges of one key: how many, how many errors, how long they took. `failed_attempts` were no exchange's
    last: it was tried again, so that its outcome does not tell of them."""

    __slots__ = ("classes", "count", "durations", "errors", "failed_attempts", "first_tokens")

    def __init__(self) -> None:
        self.count = 0
        self.errors = 0
        self.classes: Counter[str] = Counter()
        self.failed_attempts = 0
        self.durations = array("d")
        self.first_tokens = array("d")

    def add(self, exchange: Exchange) -> None:
        """Take one exchange in."""
        self.count += 1
        if exchange.class_ is not None:
            self._add_class(exchange.class_, exchange.status, 1)
        _append(self.durations, exchange.duration_ms)
        _append(self.first_tokens, (exchange.llm or NO_LLM).ttft_ms)

    def add_group(self, group: Group) -> None:
        """Take in what an index has counted."""
        self.count += group.count
        self._add_class(outcome_class(group.outcome, group.status, group.grpc_status), group.status, group.count)
        self.durations.extend(micros / 1000 for micros in group.durations)
        self.first_tokens.extend(micros / 1000 for micros in group.first_tokens)

    def _add_class(self, kind: str, status: int | None, count: int) -> None:
        self.classes[kind] += count
        self.errors += count * is_failure(kind, status)


def by(name: str, exchanges: Iterable[Exchange], groups: Iterable[Group] = ()) -> dict[str, Tally]:
    """One tally for each value of the key, the one with the most exchanges first. Of an `upstream`, what failed there
    and was sent to another is counted as well, even where nothing ended there."""
    tallies: dict[str, Tally] = {}

    def add_failed(attempts: Iterable[Attempt], value: str) -> None:
        for attempt in attempts:
            at = str(attempt.upstream or NONE) if name == "upstream" else value
            tallies.setdefault(at, Tally()).failed_attempts += 1

    key = KEYS[name]
    for exchange in exchanges:
        value = str(key(exchange) or NONE)
        tallies.setdefault(value, Tally()).add(exchange)
        add_failed(exchange.failed_attempts or (), value)
    for group in groups:
        value = group.key or NONE
        tallies.setdefault(value, Tally()).add_group(group)
        add_failed(group.failed_attempts, value)
    return dict(sorted(tallies.items(), key=lambda item: (-item[1].count, item[0])))


def fields(name: str, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
    """Each tally as an object; times in milliseconds."""
    for value, tally in tallies.items():
        yield {
            name: None if value == NONE else value,
            "exchanges": tally.count,
            "errors": tally.errors,
            "classes": dict(sorted(tally.classes.items())),
            "failed_attempts": tally.failed_attempts,
            "duration_ms": percentiles(tally.durations),
            "ttft_ms": percentiles(tally.first_tokens),
        }


def percentiles(values: array[float]) -> dict[str, float | None]:
    """Of each the value that so many per cent of the values do not exceed (nearest rank); None of none."""
    ordered = sorted(values)
    return {f"p{percent}": percentile(ordered, percent) for percent in (50, 90, 99)}


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """One of them."""
    if not ordered:
        return None
    return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]


def _append(values: array[float], value: Any) -> None:
    if isinstance(value, int | float):
        values.append(value)
