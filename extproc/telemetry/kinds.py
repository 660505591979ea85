"""Closed sets of kinds for labels: what a text of a record says, in one of a few words.

A text may name a place, a number, a coding or a word of a client's. A label may not: each new value is a series of its
own, for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

OTHER: Final = "other"

_PARSE_ERRORS: Final[Mapping[str, re.Pattern[str]]] = {
    # By the words with which `parse_error` says it, most particular first.
    "reader failed": re.compile(r"the reader failed"),
    "unknown coding": re.compile(r"(unknown|more than \d+) content-encoding"),
    "too much decoded": re.compile(r"more than \d+ bytes decoded"),
    "cut off": re.compile(r"cut off"),
    "damaged coding": re.compile(r"(gzip|x-gzip|deflate|br|zstd): "),
    "not UTF-8": re.compile(r"not UTF-8"),
    "not an object": re.compile(r"not an object"),
    "number too long": re.compile(r"number too long"),
    "too deep": re.compile(r"too deep"),
    "too long": re.compile(r"too long"),
    "malformed JSON": re.compile(r"malformed"),
}
PARSE_ERRORS: Final = (*_PARSE_ERRORS, OTHER)

LATE: Final = tuple(
    f"{direction}.{part}" for direction in ("request", "response") for part in ("headers", "body", "trailers")
)


def of_parse_error(text: object) -> str:
    """Which of PARSE_ERRORS the first problem of a `parse_error` is."""
    first = str(text).partition("; ")[0]
    return next((kind for kind, pattern in _PARSE_ERRORS.items() if pattern.search(first)), OTHER)


def of_late(kind: object) -> str:
    """Which of LATE a key of `protocol.late` is, else `other`."""
    return str(kind) if kind in LATE else OTHER
