"""What the page shows, read from the data directories: every call opens them, answers, and lets go again.

    source = Source(directories, query)
    source.exchanges(["--failed", "--upstream=10.0.0.7"], limit=50)
    source.one("019aa3f2", bodies=False)

It waits for files, so it runs in threads of its own, and writes nothing. `query` turns the words of `extproc log`'s
options into filters. With `redact` no text that a client or a model has sent is in what it gives (`shapes`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from extproc.core.joined import NO_LLM, NO_REQUEST
from extproc.core.record import json_line
from extproc.core.times import later, timestamp
from extproc.errors import ConfigError, JournalError
from extproc.export import bodies as exported
from extproc.export.jsonl import complete, with_bodies
from extproc.history import conversation, filters, now, tally
from extproc.history.answers import Answers
from extproc.history.filters import Filters
from extproc.history.grep import Grep
from extproc.history.index.precedents import Precedents
from extproc.history.index.query import Index
from extproc.history.index.store import Unusable
from extproc.history.join import Exchange
from extproc.incidents import atoms
from extproc.page import shapes
from extproc.page.types import Bin, Conversation, EnvoyFile, Exchanges, Histogram, Rare, RareParameter, Row, Said, row

Words = Sequence[str]
Query = Callable[[Words], tuple[Filters, str | None]]
"""From words of a command line to filters, and the expression of --grep. Raises ConfigError."""

MOST: Final = 1000
"""Exchanges in one answer."""
_SAME_MOMENT: Final = 64
_ALIKE: Final = 50
"""Of a conversation: each is read."""
_BINS: Final = 96
_WIDTHS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to which exchange a list has been read, newest first: its start and its id."""

    started_at: str
    id: str

    @classmethod
    def of(cls, text: str) -> Cursor:
        started_at, _, id = text.partition(",")
        return cls(started_at, id)

    def text(self) -> str:
        """What goes into an address."""
        return f"{self.started_at},{self.id}"


class PageSource:
    """Of some data directories."""

    def __init__(self, directories: Sequence[Path], query: Query, *, redact: bool = False) -> None:
        self.directories = directories
        self.redact = redact
        self._query = query

    # Lists -----------------------------------------------------------------------------------------------------

    def exchanges(
        self, words: Words, *, limit: int, before: str | None = None, rows: bool = False, running: bool = False
    ) -> Exchanges:
        """The newest of those that are meant, the newest first, and where to read on."""
        wanted, test = self._asked(words)
        cursor = None if before is None else Cursor.of(before)
        more = limit + 1
        if cursor is not None:
            until = later(cursor.started_at, 1e-6)
            wanted = replace(wanted, until=min(until, wanted.until or until))
            more += _SAME_MOMENT
        with Answers(self.directories) as asked:
            complete = not rows and not self.redact
            found = [*asked.exchanges(wanted, test=test, limit=more, running=running, complete=complete)]
        found.sort(key=_place, reverse=True)
        if cursor is not None:
            found = [each for each in found if _place(each) < (cursor.started_at, cursor.id)]
        page, rest = found[:limit], found[limit:]
        last = Cursor(*_place(page[-1])).text() if rest else None
        return Exchanges([self._row(each) if rows or self.redact else each.members() for each in page], last)

    def counts(self, words: Words, by: str) -> list[dict[str, Any]]:
        """The same, counted: what `extproc log --by` says."""
        if by not in tally.KEYS:
            raise ConfigError(f"{by!r} is nothing to count by; expected one of {', '.join(tally.KEYS)}")
        wanted, test = self._asked(words)
        with Answers(self.directories) as asked:
            counted, beside = asked.counted(wanted, by, test=test)
            tallies = tally.by(by, beside, counted)
        return [*tally.fields(by, tallies)]

    def histogram(self, words: Words) -> Histogram:
        """How many started when, by outcome class, in spans that suit the time that is meant."""
        wanted, _ = self._asked(words)
        with Answers(self.directories) as asked:
            newest = [*asked.exchanges(wanted, limit=1)]
            if not newest:
                return Histogram(0, [])
            last = _seconds(wanted.until) or _seconds(newest[0].started_at) or time.time()
            first = _seconds(wanted.since) or self._oldest(asked, wanted, last)
            width = next((each for each in _WIDTHS if (last - first) / each <= _BINS), _WIDTHS[-1])
            found = asked.histogram(wanted, width * 1_000_000)
        bins: dict[int, dict[str, int]] = {}
        for (start, kind), count in found.items():
            bins.setdefault(start, {})[kind] = count
        return Histogram(width, [Bin(timestamp(start * 1000), bins[start]) for start in sorted(bins)])

    def _oldest(self, asked: Answers, wanted: Filters, last: float) -> float:
        oldest = next(iter(asked.exchanges(wanted)), None)
        return last if oldest is None else _seconds(oldest.started_at) or last

    def in_flight(self) -> list[dict[str, Any]]:
        """What is in flight now, oldest first: what `extproc inflight --json` says."""
        with Answers(self.directories) as asked:
            return [self._running(each) for each in now.exchanges(self.directories, asked)]

    def live(self, number: int) -> tuple[list[dict[str, Any]], list[Row]]:
        """What is in flight as rows, and what ended last, in that order."""
        with Answers(self.directories) as asked:
            running = [self._running(each, short=True) for each in now.exchanges(self.directories, asked)]
            return running, [self._row(each) for each in asked.last_ended(number)]

    def _running(self, exchange: now.Running, *, short: bool = False) -> dict[str, Any]:
        if not short and not self.redact:
            return exchange.members()
        kept = ("state", "request_bytes", "response_bytes", "response_chunks", "first_token_ms", "last_chunk_at")
        found: dict[str, Any] = msgspec.to_builtins(self._row(exchange))
        return found | {name: getattr(exchange, name) for name in (*kept, "silent_ms")}

    def _row(self, exchange: Exchange) -> Row:
        found = row(exchange)
        return replace_path(found) if self.redact else found

    # One -------------------------------------------------------------------------------------------------------

    def one(self, id: str, *, bodies: bool) -> Iterator[str]:
        """All of one exchange as JSON, in pieces: what `extproc show --json` prints, or that without its bodies.

        LookupError where not just one goes by this name; JournalError where a body is gone.
        """
        exchange = self._found(id)
        if bodies and not self.redact:
            return with_bodies(exchange)
        try:
            whole: Any = complete(exchange, {"request": None, "response": None})
        except JournalError:
            whole = exchange.members()
        return iter([json_line(shapes.of_exchange(whole) if self.redact else whole)])

    def body(self, id: str, direction: str, *, decoded: bool) -> tuple[str, bytes]:
        """A body and the exchange's whole id: its exact bytes, or those without their content coding.

        With `redact` the shape of what is JSON, and nothing of anything else.
        """
        exchange = self._found(id)
        read = exported.readable if decoded or self.redact else exported.raw
        body = read(exchange, direction, lambda _: None) or b""
        return exchange.id, shapes.of_body(body) if self.redact else body

    def whole_id(self, id: str) -> str:
        """The id of the one exchange that goes by this name. LookupError where not just one does."""
        return self._found(id).id

    def rare(self, id: str) -> Rare:
        """How many requests for the same model that were served have each parameter so."""
        exchange = self._found(id)
        params = (exchange.llm or NO_LLM).params or {}
        part = exchange.request or NO_REQUEST
        body = exported.raw(exchange, "request", lambda _: None)
        asked = atoms.of(exchange.path or "", body, params, part.bytes or 0)
        own = {(name, kind) for name, kind in asked.items() if name.partition(".")[0] in params}
        total, counts = self._counted(filters.model(exchange), own)
        found = [
            RareParameter(name, kind, counts[name, kind], counts[name, kind] / max(total, 1)) for name, kind in own
        ]
        return Rare(total, sorted(found, key=lambda each: (each.count, each.name)))

    def _counted(self, model: str, own: set[tuple[str, str]]) -> tuple[int, Counter[tuple[str, str]]]:
        total, counts = 0, Counter[tuple[str, str]]()
        for directory in self.directories:
            try:
                with Index.open(directory, still=True) as index:
                    served = Precedents(index)
                    total += sum(times for each, _, times in served.shapes() if each == model)
                    for each, name, kind, times in served.atoms():
                        if each == model and (name, kind) in own:
                            counts[name, kind] += times
            except Unusable:
                continue
        return total, counts

    def conversation(self, id: str) -> Conversation:
        """Which others go on with it, or it with them."""
        exchange = self._found(id)
        own = _messages(exchange)
        beginning = conversation.beginning(own)
        if beginning is None:
            return Conversation(0, [], more=False)
        others: list[Said] = []
        for directory in self.directories:
            with contextlib.suppress(Unusable), Index.open(directory) as index:
                for found in index.alike(beginning, exchange.started_at, _ALIKE + 2):
                    other = index.whole(found)
                    said = () if other is None or other.id == exchange.id else _messages(other)
                    if other is not None and said:
                        others.append(Said(self._row(other), conversation.relation(own, said), len(said)))
        others.sort(
            key=lambda each: abs((_seconds(each.exchange.started_at) or 0) - (_seconds(exchange.started_at) or 0))
        )
        kept = sorted(others[:_ALIKE], key=lambda each: each.exchange.started_at)
        return Conversation(len(own), kept, more=len(others) > _ALIKE)

    def _found(self, id: str) -> Exchange:
        with Answers(self.directories) as asked:
            found = {each.id: each for each in asked.find(id)}
        if len(found) != 1:
            raise LookupError(f"no exchange goes by {id!r}" if not found else f"{len(found)} exchanges go by {id!r}")
        return next(iter(found.values()))

    # The recorder ----------------------------------------------------------------------------------------------

    def envoy_files(self) -> list[EnvoyFile]:
        """The files of the Envoy configuration that is live beside these directories, the last changed first."""
        found = []
        for directory in self.directories:
            try:
                entries = [*os.scandir(directory / "run" / "envoy")]
            except OSError:
                continue
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append(EnvoyFile(entry.name, timestamp(status.st_mtime_ns), status.st_size))
        return sorted(found, key=lambda each: each.changed_at, reverse=True)

    def _asked(self, words: Words) -> tuple[Filters, Callable[[Exchange], bool] | None]:
        wanted, grep = self._query(words)
        if grep is not None and self.redact:
            raise ConfigError("--grep reads texts, which this page does not show")
        return wanted, None if grep is None else Grep(grep).finds


def _messages(exchange: Exchange) -> conversation.Messages:
    """What its request says; nothing of one that is larger than the index reads."""
    if ((exchange.request or NO_REQUEST).bytes or 0) > atoms.MOST_BYTES:
        return ()
    return conversation.messages(atoms.document_of(exported.raw(exchange, "request", lambda _: None)))


def words_of(line: str) -> list[str]:
    """The words of a command line for a query line: options of `extproc log` as they are, or without any dashes, each
    one word. Raises ConfigError."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"{line!r}: {error}") from None
    return words if any(word.startswith("--") for word in words) else [f"--{word}" for word in words]


def replace_path(found: Row) -> Row:
    """The same without the path's query."""
    return msgspec.structs.replace(found, path=None if found.path is None else found.path.partition("?")[0])


def _place(exchange: Exchange) -> tuple[str, str]:
    return exchange.started_at, exchange.id


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except ValueError:
        return None
