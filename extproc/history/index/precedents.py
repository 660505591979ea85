"""What the rows of an index say together of backends, without any one of them being read.

    with Index.open(directory, still=True) as index:
        past = Precedents(index)
        past.shapes(), past.atoms()                   # what was served, counted (`served.py`)
        past.answers("10.0.0.7:8000", since, until)   # how many requests a backend served in a time

Times are microseconds since 1970. Any call may raise Unusable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from extproc.core.outcome import Outcome
from extproc.history.index import row, served
from extproc.history.index.query import Found, Index
from extproc.history.index.schema import ANSWERED, BODY

_OF_LIFE: Final = f"upstream = ? AND {ANSWERED} >= ? AND {ANSWERED} < ?"
_LEFT: Final = (
    Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE,
    Outcome.CLIENT_CANCEL_MID_STREAM,
    Outcome.UPSTREAM_TIMEOUT,
)
_PAGE: Final = 100
_FOR_EVER: Final = 2**62


class Precedents:
    """Of one index, opened `still`."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._numbers = {text: number for number, text in index.words.items()}

    # What was served ------------------------------------------------------------------------------------------

    def shapes(self) -> Iterator[tuple[str, str, int]]:
        """Of each model and fingerprint, how many were served that ask for something that is known."""
        for model, fingerprint, times in self._index.select("SELECT model, fingerprint, times FROM shapes"):
            yield self._text(model), self._text(fingerprint), times

    def atoms(self) -> Iterator[tuple[str, str, str, int]]:
        """Of each model, place and value there, the same."""
        for model, atom, times in self._index.select("SELECT model, atom, times FROM counts"):
            yield self._text(model), *self._index.atom(atom), times

    def bodies(self, fingerprint: str, sha256: str) -> Iterator[tuple[str, int]]:
        """Of each model, how many of them were the same request, byte for byte."""
        body = row.digest(sha256 or None)
        for model, times in self._index.select(
            "SELECT model, count(*) FROM exchanges INDEXED BY by_fingerprint"
            f" WHERE fingerprint IS ? AND {BODY} IS substr(?, 1, 5) AND request_sha256 IS ? AND {served.COUNTED}"
            " GROUP BY 1",
            self._number(fingerprint),
            body,
            body,
        ):
            yield self._text(model), times

    # What came, however it ended ------------------------------------------------------------------------------

    def arrivals(self) -> dict[str, int]:
        """How many different requests reached a backend, by fingerprint."""
        sql = (
            f"SELECT fingerprint, count(DISTINCT {BODY}), max({BODY} IS NULL) FROM exchanges INDEXED BY by_fingerprint"
            " WHERE upstream IS NOT NULL GROUP BY 1"
        )
        return {self._text(each): bodies + without for each, bodies, without in self._index.select(sql)}

    def has_come(self, fingerprint: str, sha256: str) -> bool:
        """Whether a request did that is the same, byte for byte."""
        sql = (
            "SELECT 1 FROM exchanges INDEXED BY by_fingerprint"
            f" WHERE fingerprint IS ? AND {BODY} IS substr(?, 1, 5) AND upstream IS NOT NULL LIMIT 1"
        )
        return bool(self._index.select(sql, self._number(fingerprint), row.digest(sha256 or None)))

    # One backend ----------------------------------------------------------------------------------------------

    def has_ended_before(self, upstream: str, at: int) -> bool:
        """Whether anything had."""
        sql = "SELECT 1 FROM exchanges INDEXED BY by_upstream WHERE upstream = ? AND started + lasted < ? LIMIT 1"
        return bool(self._index.select(sql, self._number(upstream), at))

    def first_answer(self, upstream: str) -> int | None:
        """When it first showed that it serves."""
        sql = f"SELECT min({ANSWERED}) FROM exchanges INDEXED BY by_upstream WHERE upstream = ?"
        return self._one(sql, self._number(upstream))

    def answers(self, upstream: str, since: int, until: int) -> int:
        """How many requests it served in a time."""
        sql = f"SELECT count(*) FROM exchanges INDEXED BY by_upstream WHERE {_OF_LIFE}"
        return self._one(sql, self._number(upstream), since, until) or 0

    def has_served(self, upstream: str, fingerprint: str, since: int, until: int) -> bool:
        """Whether one of this shape was among them."""
        sql = f"SELECT 1 FROM exchanges INDEXED BY by_fingerprint WHERE fingerprint = ? AND {_OF_LIFE} LIMIT 1"
        return bool(self._index.select(sql, self._number(fingerprint), self._number(upstream), since, until))

    def back_after(self, upstream: str, at: int) -> Found | None:
        """What it first served, and did not decline, of what began at a moment or later."""
        numbers = self._all(
            f"SELECT n FROM exchanges INDEXED BY by_upstream WHERE {_OF_LIFE} AND NOT served & {served.DECLINED}"
            f" AND started >= ? ORDER BY {ANSWERED} LIMIT 1",
            self._number(upstream),
            at,
            _FOR_EVER,
            at,
        )
        return next(self._index.numbered(numbers), None)

    def constrained(
        self, upstream: str, since: int, until: int, most: int, *, newest_first: bool = False
    ) -> Iterator[Found]:
        """What it served in a time whose answer's form was constrained, in the order of the answers."""
        numbers = self._all(
            f"SELECT n FROM exchanges INDEXED BY by_upstream WHERE {_OF_LIFE} AND served & {served.CONSTRAINED}"
            f" ORDER BY {ANSWERED} {'DESC' if newest_first else 'ASC'} LIMIT ?",
            self._number(upstream),
            since,
            until,
            most,
        )
        return self._index.numbered(numbers)

    def left(self, upstream: str, until: int) -> int:
        """How many of the requests that began before a moment were left by their clients."""
        numbers = [number for each in _LEFT if (number := self._number(each)) is not None]
        sql = (
            f"SELECT count(*) FROM exchanges INDEXED BY by_outcome WHERE outcome IN ({','.join('?' * len(numbers))})"
            " AND upstream = ? AND started < ?"
        )
        return self._one(sql, *numbers, self._number(upstream), until) or 0

    def begun(self) -> int | None:
        """When the oldest exchange that has a row began."""
        return self._one("SELECT min(started) FROM exchanges INDEXED BY by_time WHERE started > 0")

    # Rows -----------------------------------------------------------------------------------------------------

    def started_before(self, at: int, count: int) -> int | None:
        """When the one began that began so many before a moment."""
        return self._one(
            "SELECT started FROM exchanges INDEXED BY by_time WHERE started < ? ORDER BY started DESC LIMIT 1 OFFSET ?",
            at,
            count,
        )

    def started_after(self, at: int, count: int) -> int | None:
        """When the one began that began so many after a moment."""
        return self._one(
            "SELECT started FROM exchanges INDEXED BY by_time WHERE started >= ? ORDER BY started LIMIT 1 OFFSET ?",
            at,
            count,
        )

    def of_ids(self, ids: Sequence[str]) -> Iterator[Found]:
        """The rows of these ids, as far as they have one."""
        numbers = []
        for start in range(0, len(ids), _PAGE):
            some = [row.packed_id(each) for each in ids[start : start + _PAGE]]
            numbers += self._all(f"SELECT n FROM exchanges WHERE id IN ({','.join('?' * len(some))})", *some)
        return self._index.numbered(numbers)

    def _number(self, text: str) -> int | None:
        return self._numbers.get(text)

    def _text(self, number: int | None) -> str:
        return self._index.words[number] if number else ""

    def _one(self, sql: str, *parameters: Any) -> int | None:
        found = self._index.select(sql, *parameters)
        number: int | None = found[0][0] if found else None
        return number

    def _all(self, sql: str, *parameters: Any) -> list[int]:
        return [n for (n,) in self._index.select(sql, *parameters)]
