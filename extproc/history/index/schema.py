"""The tables of the index. This is what they hold, and the rules that keep them right.

exchanges   one row for each final exchange, in the order in which they became final (`n`)
texts       words that come again and again (backends, models, outcomes): a row has their number
segments    the segments in which rows have records, by number
straddling  rows that have records in other segments than `exchanges.segment`, once for each of those
atoms       what requests ask for (`told.py`), each fact once
asked       what a whole request asks for: numbers of atoms, or that of a place's `OTHERS` with the value. Rows have its
            number; it may be there more than once
shapes      of what was served (`served.py`), how many rows there are of each model and fingerprint; 0 is none of these
counts      and of each model and atom
meta        one row: how far the journal has been read

An index of which one of `INDEXES` is lacking is being made, and nobody asks it anything yet.

Times are microseconds since 1970, durations microseconds. Ids, digests and the like are bytes where they have their
usual form, else text. `positions` says where each record of an exchange stands, so that all that is not in a column
can be read from the journal.

A row is `whole` when its columns say what the journal says. One with a value that no column can hold (a model's name
of a kilobyte, a time that is none) is not: its columns decide nothing, and whoever asks reads it from the journal.

`meta.position`, `shapes` and `counts` change in the transaction that changes the rows, so that they always say what is
here. Any
other `VERSION` than ours, or a database that is damaged, is deleted and made anew.
"""

from __future__ import annotations

from typing import Final

FILE_NAME: Final = "index.sqlite"
APPLICATION_ID: Final = 0x65787072
"""`expr`: that it is ours, for `file` and for us."""
VERSION: Final = 3

MOST_CHARACTERS: Final = 256
"""Of a text in a column; a row with a longer one is not whole."""
MOST_ATOMS: Final = 100_000
MOST_VALUES: Final = 5_000
"""At one place. What is new beyond these stands in `asked` itself, and all of that at a place is counted as one,
`OTHERS`: users and seeds are new again and again."""
OTHERS: Final = "one of many"
MOST_TEXTS: Final = 100_000
"""Words; a row with a new one beyond these is not whole: a client may choose a model's name anew for each request."""

LONG_US: Final = 60_000_000
"""What lasts longer has an index of its own, so that what was in flight at a moment is found near it."""

WORDS: Final = (
    "outcome",
    "class",
    "method",
    "route",
    "cluster",
    "upstream",
    "response_flags",
    "details",
    "grpc_status",
    "key",
    "api",
    "model",
    "response_model",
    "finish_reasons",
    "error_type",
    "error_code",
    "fingerprint",
)
"""Columns with the number of a text."""

VALUES: Final = (
    "id",
    "mirror",  # the last twelve digits of the id backwards, so that its end can be looked for
    "started",
    "lasted",
    "duration",
    "first_byte",
    "last_byte",
    "first_token",
    "status",
    "path",
    "client",
    "attempts",
    "failed_attempts",
    "stream",
    "tokens_in",
    "tokens_out",
    "max_tokens",
    "request_bytes",
    "response_bytes",
    "request_sha256",
    "response_sha256",
    "trace_id",
    "request_id",
    "response_id",  # a hash of it
    "streamed",
    "silence_at",
    "silence",
    "message",  # of the backend's error; empty where there is none, null where nobody has looked
    "conversation",  # `history/conversation.py`: a digest of its beginning
    "asked",
    "served",  # `served.py`
    "whole",
    "segment",
    "positions",
)

COLUMNS: Final = (*VALUES, *WORDS)

ANSWERED: Final = (
    "CASE WHEN served IS NULL THEN NULL WHEN served & 2 THEN started + lasted"
    " ELSE started + coalesce(first_token, last_byte, lasted) END"
)
"""When a backend first showed that it serves a request."""
BODY: Final = "substr(request_sha256, 1, 5)"
"""As much of a request's digest as tells bodies apart."""
NAME: Final = "substr(request_id, -4)"
"""As much of another's id for a request as few share."""

TABLES: Final = f"""
CREATE TABLE meta (position BLOB NOT NULL);
CREATE TABLE texts (n INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE atoms (n INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE asked (n INTEGER PRIMARY KEY, atoms BLOB NOT NULL);
CREATE TABLE shapes (model INTEGER, fingerprint INTEGER, times INTEGER, PRIMARY KEY (model, fingerprint)) WITHOUT ROWID;
CREATE TABLE counts (model INTEGER, atom INTEGER, times INTEGER, PRIMARY KEY (model, atom)) WITHOUT ROWID;
CREATE TABLE segments (n INTEGER PRIMARY KEY, series TEXT NOT NULL, number INTEGER NOT NULL, UNIQUE (series, number));
CREATE TABLE exchanges (n INTEGER PRIMARY KEY, {", ".join(COLUMNS)});
CREATE TABLE straddling (segment INTEGER, exchange INTEGER, PRIMARY KEY (segment, exchange)) WITHOUT ROWID;
CREATE UNIQUE INDEX by_id ON exchanges (id);
CREATE INDEX by_segment ON exchanges (segment);
"""

INDEXES: Final = {
    name: f"CREATE INDEX {name} ON exchanges {columns}"
    for name, columns in (
        ("by_mirror", "(mirror) WHERE mirror IS NOT NULL"),
        ("by_time", "(started)"),
        ("by_request_id", f"({NAME}) WHERE request_id IS NOT NULL"),
        ("by_response_id", "(response_id) WHERE response_id IS NOT NULL"),
        ("by_upstream", f"(upstream, {ANSWERED}, served)"),
        ("by_outcome", "(outcome, class, started)"),
        ("by_model", "(model)"),
        ("by_fingerprint", f"(fingerprint, {BODY}, upstream)"),
        ("by_key", "(key)"),
        ("long", f"(started, lasted) WHERE lasted > {LONG_US}"),
        ("not_whole", "(started) WHERE whole = 0"),
    )
}
"""What only questions need: made when the journal has been read for the first time, since sorting all at once is
cheaper than putting each row into its place. Until then whoever asks reads the journal."""
