"""What is hard to export, recorded; and the exports read back."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from support.recorded import ANSWER, CHAT, ESCAPE, Recording

from extproc import export
from extproc.history import reader
from extproc.history.join import Exchange

STREAM: Final = (
    b'data: {"id":"c1","model":"llama-3","choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"}}]}\n\n',
    b'data: {"id":"c1","model":"llama-3","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)
EVENTS: Final = (("content-type", "text/event-stream"),)

BODIES: Final = {
    "text": CHAT,
    "NUL": b'{"model":"m","messages":"a\0b"}',
    "a lone surrogate, escaped": b'{"model":"m","prompt":"\\ud800"}',
    "a lone surrogate, as bytes": b'{"model":"m","prompt":"\xed\xa0\x80"}',
    "binary": bytes(range(256)) * 10,
    "lines, quotes and formulas": b'=cmd|"/C calc"!A1,\r\n"x"\n\r,;\t\x85\xe2\x80\xa8'.replace(b"\x85", b""),
    "what a terminal would obey": f'{{"model":"m","prompt":"{ESCAPE}"}}'.encode(),
    "10 MB": b'{"model":"m","prompt":"' + b"xyz \xc3\xa4" * 1_700_000 + b'"}',
}


def recorded(directory: Path, bodies: Sequence[bytes]) -> list[Exchange]:
    """Exchanges with these bodies, as request and as answer."""
    with Recording(directory) as recording:
        for body in bodies:
            recording.add(body, body, answer_headers=[("content-type", "application/octet-stream")])
    return list(reader.exchanges([directory]))


def exported(layout: str, exchanges: Sequence[Exchange] | Iterator[Exchange], *, bodies: bool = True) -> bytes:
    """An export of which nothing was told."""
    sink, notes = io.BytesIO(), list[str]()
    count = export.WRITERS[layout](exchanges, sink, bodies=bodies, note=notes.append)
    assert notes == []
    assert not isinstance(exchanges, list) or count == len(exchanges)
    return sink.getvalue()


def record_all(directory: Path) -> list[Exchange]:
    """One of each kind: whole, with a redacted key and odd headers; streamed; coded; without a body; and, listed last,
    unfinished."""
    coded = [("content-type", "application/json"), ("content-encoding", "gzip")]
    keys: list[tuple[str, str | bytes]] = [
        ("content-type", "application/json"),
        ("authorization", "Bearer sk-secret-secret"),
        ("x-odd", b"\xff\x01"),
    ]
    with Recording(directory) as recording:
        recording.add(headers=keys, path="/v1/chat/completions?key=sk-secret-secret&a=%20b")
        recording.add(answer=STREAM, answer_headers=EVENTS)
        recording.add(gzip.compress(CHAT), gzip.compress(ANSWER), headers=coded, answer_headers=coded)
        recording.add(answer=None)
        recording.add(method="GET", path="/v1/models", body=b"", answer=b"{}")
    return list(reader.exchanges([directory]))
