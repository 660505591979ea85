"""What is asked for (`filters.Filters`), as far as SQL can say it.

    found = of(filters, words)
    found.sql, found.parameters      # every row that is meant has this
    found.exact                      # and none that is not

Texts are globs: each word of the index is held against them once, so that a row is chosen by a number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from extproc.core.marks import MARK
from extproc.core.outcome import Outcome, outcome_class
from extproc.history import filters
from extproc.history.filters import CLASS, NONE, Filters
from extproc.history.index.row import micros

Words = Mapping[int, str]
"""The texts of the index, by number."""

_FAILED: Final = frozenset(outcome.value for outcome in Outcome if outcome_class(outcome) != "ok")
_OF_NOTHING: Final = ("keys", "fingerprints")
"""Filters that mean what has none when nothing is asked for."""
_MOST: Final = 30_000
"""Of the words that a filter may mean; SQLite takes 32,766 parameters. More are left to who looks at the rows."""


@dataclass(slots=True)
class Conditions:
    """Of whole rows. `by`: the columns with an index of their own that are asked for, each with its condition."""

    terms: list[str] = field(default_factory=list)
    parameters: list[Any] = field(default_factory=list)
    exact: bool = True
    since: int | None = None
    """No row that began earlier is meant; and from `until` on."""
    until: int | None = None
    between: tuple[int, int] | None = None
    """It was in flight at some moment from the first to the second."""
    by: list[tuple[str, list[Any]]] = field(default_factory=list)
    of_ends: bool = False
    """Nothing but the time and how it ended is asked for."""

    @property
    def sql(self) -> str:
        return " AND ".join(self.terms) or "1"

    def add(self, term: str, *parameters: Any) -> None:
        self.terms.append(term)
        self.parameters += parameters

    def words(self, columns: Sequence[str], numbers: Sequence[int]) -> None:
        """One of the columns has one of these words."""
        if not numbers:
            self.nothing()
            return
        if len(numbers) * len(columns) > _MOST - len(self.parameters):
            self.exact = False
            return
        terms = [f"{column} IN ({','.join('?' * len(numbers))})" for column in columns]
        self.add(f"({' OR '.join(terms)})", *list(numbers) * len(columns))
        if columns[0] in INDEXED:
            self.by += [(term, list(numbers)) for term in terms] if len(columns) == 1 else []

    def nothing(self) -> None:
        """No row is meant."""
        self.add("0")
        self.by.append(("0", []))

    @property
    def span(self) -> tuple[str, list[Any]]:
        """The time alone, of rows that are whole and others."""
        terms, parameters = ["1"], []
        if self.since is not None:
            terms.append("started >= ?")
            parameters.append(self.since)
        if self.until is not None:
            terms.append("started < ?")
            parameters.append(self.until)
        return " AND ".join(terms), parameters


INDEXED: Final = ("upstream", "outcome", "model", "fingerprint", "key")


def of(wanted: Filters, words: Words) -> Conditions:
    """What can be said of these filters. `ids` are no matter of conditions, and left out."""
    found = Conditions(of_ends=replace(wanted, since=None, until=None, outcomes=(), failed=False) == Filters())
    _times(wanted, found)
    for columns, name, means in _WORDS:
        patterns = getattr(wanted, name)
        if "" in patterns and name in _OF_NOTHING:
            found.exact = False
        elif patterns:
            found.words(columns, [number for number, text in words.items() if means(text, patterns)])
    if wanted.outcomes:
        _outcomes(wanted.outcomes, words, found)
    if wanted.failed:
        found.words(("outcome",), [number for number, text in words.items() if text in _FAILED])
    if wanted.statuses:
        _statuses(wanted.statuses, found)
    if wanted.min_duration_ms is not None:
        found.add("duration / 1000.0 >= ?", wanted.min_duration_ms)
    if wanted.min_ttft_ms is not None:
        found.add("first_token / 1000.0 >= ?", wanted.min_ttft_ms)
    if wanted.tokens is not None:
        _tokens(wanted.tokens, found)
    for column, values in (("path", wanted.paths), ("client", wanted.clients)):
        if values:
            # With its query, its port or its brackets, or without: who looks at the rows knows.
            test = " OR ".join([f"coalesce({column}, '') GLOB ?"] * len(values))
            found.add(f"({test})", *(f"*{_glob(value)}*" for value in values))
            found.exact = False
    if wanted.params or wanted.ids:
        found.exact = False
    return found


def _times(wanted: Filters, found: Conditions) -> None:
    if wanted.since is not None:
        found.since = micros(wanted.since)
        found.exact = found.exact and found.since is not None
    if wanted.until is not None:
        found.until = micros(wanted.until)
        found.exact = found.exact and found.until is not None
    if wanted.between is not None:
        first, last = map(micros, wanted.between)
        if first is None or last is None:
            found.exact = False
            return
        found.until = last + 1 if found.until is None else min(found.until, last + 1)
        found.between = first, last
        found.add("started + lasted >= ?", first)


def _outcomes(patterns: Sequence[str], words: Words, found: Conditions) -> None:
    names = [pattern for pattern in patterns if not pattern.startswith(CLASS)]
    classes = [pattern.removeprefix(CLASS) for pattern in patterns if pattern.startswith(CLASS)]
    outcomes = [number for number, text in words.items() if _any(text, names)]
    whose = [number for number, text in words.items() if _any(text, classes)]
    if not classes:
        found.words(("outcome",), outcomes)
        return
    if not outcomes and not whose:
        found.nothing()
        return
    found.add(
        f"(outcome IN ({','.join('?' * len(outcomes))}) OR class IN ({','.join('?' * len(whose))}))", *outcomes, *whose
    )


def _statuses(wanted: Iterable[str], found: Conditions) -> None:
    terms = []
    for status in wanted:
        if status == NONE:
            terms.append("status IS NULL")
        elif status.endswith("xx"):
            terms.append("substr(status, 1, 1) = ?")
            found.parameters.append(status[0])
        else:
            terms.append("CAST(status AS TEXT) = ?")
            found.parameters.append(status)
    found.terms.append(f"({' OR '.join(terms)})")


def _tokens(bounds: filters.Bounds, found: Conditions) -> None:
    found.add("coalesce(tokens_in, tokens_out) IS NOT NULL")
    for limit, sign in ((bounds.least, ">="), (bounds.most, "<=")):
        if limit is not None:
            limit = min(limit, 2**63 - 1)  # noqa: PLW2901 - SQLite's largest number, and more than any count
            found.add(f"coalesce(tokens_in, 0) + coalesce(tokens_out, 0) {sign} ?", limit)


def _glob(pattern: str) -> str:
    """A glob of ours as one of SQLite's, in which brackets mean something, too."""
    return pattern.replace("[", "[[]")


def _any(text: str, patterns: Iterable[str]) -> bool:
    return any(filters.glob(text, pattern) for pattern in patterns)


def _address(text: str, patterns: Iterable[str]) -> bool:
    return any(_any(each, patterns) for each in filters.addresses(text))


def _listed(text: str, patterns: Iterable[str]) -> bool:
    """Of a list in JSON, any item."""
    if not text.startswith("["):
        return False
    try:
        items = json.loads(text)
    except ValueError:
        return False
    return isinstance(items, list) and any(isinstance(item, str) and _any(item, patterns) for item in items)


def _mark(text: str, keys: Iterable[str]) -> bool:
    return text.removeprefix(MARK) in {key.removeprefix(MARK) for key in keys}


_WORDS: Final[Sequence[tuple[Sequence[str], str, Callable[[str, Any], bool]]]] = (
    (("upstream",), "upstreams", _address),
    (("model", "response_model"), "models", _any),
    (("method",), "methods", _any),
    (("cluster",), "clusters", _any),
    (("route",), "routes", _any),
    (("api",), "apis", _any),
    (("finish_reasons",), "finishes", _listed),
    (("key",), "keys", _mark),
    (("fingerprint",), "fingerprints", str.startswith),
)
"""Columns, the filter that is for them, and how a word is held against its values."""
