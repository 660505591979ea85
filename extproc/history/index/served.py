"""What backends have served: told of each exchange in a few bits, and counted, so that no question needs all the rows.

    served.of(exchange, constrained)      # the column `served`
    served.add(database, rows, atoms)     # of rows that are about to be written
    served.take(database, where, values)  # of rows that are about to be deleted

A backend has served what it gave a token or a whole answer to, or declined. Counted (`schema.shapes`, `schema.counts`)
is what a request of these asked for, where that is known and its end says something of the backend.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from extproc.core.joined import NO_LLM
from extproc.core.outcome import Outcome
from extproc.core.records import Progress
from extproc.history.index.schema import COLUMNS
from extproc.history.join import Exchange

CONSTRAINED: Final = 1
"""The request constrains the form of its answer."""
DECLINED: Final = 2
"""It was an error of the request, and answered so."""
UNCOUNTED: Final = 4
"""How it ended says nothing of its backend."""
COUNTED: Final = f"served < {UNCOUNTED} AND asked IS NOT NULL"

_WHOLE: Final = frozenset({Outcome.OK, Outcome.OK_CLIENT_LEFT_AFTER_TERMINAL})
_SAYING: Final = frozenset(
    each
    for each in Outcome
    if each in _WHOLE or (each.startswith(("upstream_", "client_")) and each is not Outcome.UPSTREAM_CONNECT_FAIL)
)
_MODEL, _FINGERPRINT, _ASKED, _SERVED = (COLUMNS.index(name) for name in ("model", "fingerprint", "asked", "served"))
_ADD: Final = "INSERT INTO {0} VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET times = times + excluded.times"
_DROP: Final = "DELETE FROM {0} WHERE {1} = ? AND {2} = ? AND times <= 0"
_PLACES: Final = (("shapes", "model", "fingerprint"), ("counts", "model", "atom"))

_Found = Counter[tuple[int, int, int]]
"""How many rows there are of each model, fingerprint and `asked`."""
Packed = int | tuple[int, str]
"""The number of an atom, or that of its place's `schema.OTHERS` and the value."""
Numbers = Callable[[int], Iterable[int]]
"""What is counted of what a request asks for, by its number."""
_decoder = msgspec.msgpack.Decoder(list[Packed])


def of(exchange: Exchange, *, constrained: bool) -> int | None:
    """What the column has; None: it was not served."""
    llm, progress = exchange.llm or NO_LLM, exchange.progress or Progress()
    outcome = exchange.outcome
    declined = outcome == Outcome.UPSTREAM_ERROR_STATUS and (exchange.status or 0) < 500
    had_token = llm.ttft_ms is not None or progress.first_token_ms is not None
    if not exchange.upstream or not (had_token or declined or outcome in _WHOLE):
        return None
    bits = CONSTRAINED if constrained else 0
    if declined and not had_token:
        bits |= DECLINED
    return bits if outcome in _SAYING else bits | UNCOUNTED


def add(database: sqlite3.Connection, rows: Iterable[Sequence[Any]], atoms: Numbers) -> None:
    """Count rows that are about to be written."""
    found = Counter(
        (row[_MODEL] or 0, row[_FINGERPRINT] or 0, row[_ASKED])
        for row in rows
        if row[_ASKED] is not None and row[_SERVED] is not None and row[_SERVED] < UNCOUNTED
    )
    _count(database, found, atoms, 1)


def take(database: sqlite3.Connection, where: str, values: Sequence[Any]) -> None:
    """Count out the rows that are about to be deleted, or written anew."""
    _count(database, _found(database, where, values), _atoms_of(database), -1)


def miscounted(database: sqlite3.Connection) -> bool:
    """Whether something else is counted than the rows say. To be asked in a transaction."""
    expected = _counted(_found(database, "1", ()), _atoms_of(database))
    held = [
        Counter({(first, second): times for first, second, times in database.execute(f"SELECT * FROM {table}")})
        for table, *_ in _PLACES
    ]
    return held != list(expected)


def unpacked(packed: bytes) -> list[Packed]:
    """What stands in `schema.asked`."""
    return _decoder.decode(packed)


def numbers(packed: bytes) -> list[int]:
    """What is counted of that."""
    return [each if isinstance(each, int) else each[0] for each in unpacked(packed)]


def _found(database: sqlite3.Connection, where: str, values: Sequence[Any]) -> _Found:
    sql = f"SELECT model, fingerprint, asked, count(*) FROM exchanges WHERE {where} AND {COUNTED} GROUP BY 1, 2, 3"
    return Counter(
        {(model or 0, shape or 0, asked): times for model, shape, asked, times in database.execute(sql, values)}
    )


def _atoms_of(database: sqlite3.Connection) -> Numbers:
    def atoms(asked: int) -> Iterable[int]:
        (packed,) = database.execute("SELECT atoms FROM asked WHERE n = ?", (asked,)).fetchone()
        return numbers(packed)

    return atoms


def _counted(found: _Found, atoms: Numbers) -> tuple[Counter[tuple[int, int]], Counter[tuple[int, int]]]:
    shapes, counts = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for (model, fingerprint, asked), times in found.items():
        shapes[model, fingerprint] += times
        for atom in atoms(asked):
            counts[model, atom] += times
    return shapes, counts


def _count(database: sqlite3.Connection, found: _Found, atoms: Numbers, sign: int) -> None:
    for counted, (table, *names) in zip(_counted(found, atoms), _PLACES, strict=True):
        database.executemany(_ADD.format(table), ((*key, sign * times) for key, times in counted.items()))
        if sign < 0:
            database.executemany(_DROP.format(table, *names), list(counted))
