"""The exchanges of a journal for the search for a backend's death, out of its index as far as that tells enough.

    index = Indexer(directory, reader=Bodies())      # who makes the index keeps what bodies tell
    with Answers(directories) as asked:
        found = incident.incidents(flights(asked))   # the same as from a scan of all of the journal, sooner
    for each, times in kinds(index):                 # base rates without any of that, the tail left out:
        base.add(each, times)                        # (`rank.Base`; only what was served counts there)

Only what ended in a way that the columns cannot tell is read from the journal: orphans, errors whose message was not
kept, rows that are not whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from extproc.core.outcome import Outcome
from extproc.errors import JournalError
from extproc.history import bodies
from extproc.history.answers import Answers
from extproc.history.index.query import Found, Index
from extproc.incidents import atoms, evidence
from extproc.incidents.evidence import Flight, Known

Record = Mapping[str, Any]

_BEGINNING: Final = "1970-01-01T00:00:00.000000Z"
_ORPHAN: Final = Outcome.SIDECAR_RESTART_ORPHAN.value


class Bodies:
    """Reads what the index keeps of bodies (`history/index/told.py`), as `evidence.flights` reads it from exchanges."""

    def asked(self, request: Record, llm: Any, directory: Path) -> atoms.Atoms:
        """The atoms of a request."""
        part = request.get("request") or {}
        size = int(part.get("bytes") or 0)
        content = _body(part, directory) if size <= atoms.MOST_BYTES else None
        return atoms.of(str(request.get("path") or ""), content, (llm or {}).get("params"), size)

    def failed(self, response: Record, directory: Path) -> str:
        """The message at the end of an answer."""
        return evidence.message_of(_body(response.get("response") or {}, directory) or b"")


def _body(part: Mapping[str, Any], directory: Path) -> bytes | None:
    field = part.get("body")
    try:
        return b"".join(bodies.pieces_of(field, directory)) if isinstance(field, dict) else None
    except JournalError:
        return None


def flights(asked: Answers) -> Iterator[Flight]:
    """What all exchanges say of their backends."""
    for found in asked.rows():
        known = _known(found)
        if known is not None:
            yield from evidence.flights(found.exchange, _unread, known)
        elif (exchange := asked.whole(found)) is not None:
            yield from evidence.flights(exchange, evidence.recorded_body)


def kinds(index: Index) -> Iterator[tuple[Flight, int]]:
    """What has rows in an index, counted: one that stands for all that asked for the same of a model and ended alike,
    without what each alone had (id, times, upstream, body), and how many there are."""
    for each in index.counts():
        said = {"outcome": each.outcome, "status": each.status}
        llm = {"model": each.model, "fingerprint": each.fingerprint, "ttft_ms": 0.0 if each.had_token else None}
        began = {"id": "", "upstream": "-", "started_at": _BEGINNING, "request": {"bytes": 0}, "llm": llm}
        for flight in evidence.flights({**began, **said}, _unread, Known(each.atoms, "", streamed=False)):
            yield flight, each.times


def _known(found: Found) -> Known | None:
    """What is known of the bodies; None where the exchange must be read for it."""
    exchange = found.exchange
    if found.is_complete or exchange["outcome"] == _ORPHAN or (exchange["request"] and found.told.atoms is None):
        return None
    if found.told.message is None and exchange["class"] != "ok":
        return None
    return Known(found.told.atoms, found.told.message or "", found.streamed)


def _unread(_: Mapping[str, Any], __: str) -> bytes | None:
    return None
