"""The exchanges of a journal for the search for a backend's death, out of its index as far as that tells enough.

    index = Indexer(directory, reader=Bodies())      # who makes the index keeps what bodies tell
    with Answers(directories) as asked:
        found = incident.incidents(flights(asked))   # the same as from a scan of all of the journal, sooner

Only what ended in a way that the columns cannot tell is read from the journal: orphans, errors whose message was not
kept, rows that are not whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from extproc.core.joined import Llm
from extproc.core.outcome import Outcome
from extproc.core.records import Request, RequestDirection, RequestLlm, Response, ResponseDirection
from extproc.errors import JournalError
from extproc.history import bodies, conversation
from extproc.history.answers import Answers
from extproc.history.index.query import Found
from extproc.history.index.told import Asked
from extproc.history.join import Exchange
from extproc.incidents import atoms, evidence
from extproc.incidents.evidence import Flight, Known

_ORPHAN: Final = Outcome.SIDECAR_RESTART_ORPHAN.value


class Bodies:
    """Reads what the index keeps of bodies (`history/index/told.py`), as `evidence.flights` reads it from exchanges."""

    def asked(self, request: Request, llm: RequestLlm | Llm | None, directory: Path) -> Asked:
        """The atoms of a request, and the beginning of its conversation."""
        size = (request.request and request.request.bytes) or 0
        content = _body(request.request, directory) if size <= atoms.MOST_BYTES else None
        document = atoms.document_of(content)
        found = atoms.of_document(request.path or "", document, llm and llm.params, size)
        return Asked(found, conversation.beginning(conversation.messages(document)))

    def failed(self, response: Response, directory: Path) -> str:
        """The message at the end of an answer."""
        return evidence.last_message(_body(response.response, directory) or b"")


def _body(passed: RequestDirection | ResponseDirection | None, directory: Path) -> bytes | None:
    try:
        return None if passed is None or passed.body is None else b"".join(bodies.pieces_of(passed.body, directory))
    except JournalError:
        return None


def flights(asked: Answers) -> Iterator[Flight]:
    """What all exchanges say of their backends."""
    for found in asked.rows():
        yield from of_row(found, asked.whole)


def of_row(found: Found, whole: Callable[[Found], Exchange | None]) -> list[Flight]:
    """What an exchange says of its backends, by its row as far as that tells enough, else by all of it."""
    known = _known(found)
    if known is not None:
        return evidence.flights(found.exchange, _unread, known)
    exchange = whole(found)
    return [] if exchange is None else evidence.flights(exchange, evidence.recorded_body)


def _known(found: Found) -> Known | None:
    """What is known of the bodies; None where the exchange must be read for it."""
    exchange = found.exchange
    if found.is_complete or exchange.outcome == _ORPHAN or (exchange.request and found.told.atoms is None):
        return None
    if found.told.message is None and exchange.class_ != "ok":
        return None
    return Known(found.told.atoms, found.told.message or "", found.streamed)


def _unread(_: Exchange, __: str) -> bytes | None:
    return None
