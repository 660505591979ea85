"""docs/records.md from the types: `python -m support.record_docs > docs/records.md`, or `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec

from extproc.core import described, joined, records
from extproc.journal.segment import VERSION

HEAD = f"""# Records

Every field of an exchange, as `extproc log --json` and `extproc show --json` print it, and of the records on disk of
which it is made. This page is generated from the types (`make docs`); `extproc log --schema` prints the first part as
a JSON Schema. The version of the format is {VERSION}.

Times are text, RFC 3339 in UTC with microseconds, so that they sort; milliseconds count from the exchange's start. A
field is never left out where it is null, but for those of which it says so. Newer versions may add fields and types
of records; readers pass over what they do not know, and this one keeps it. A field of a record is null, too, where an
earlier version did not write it.
"""

EXCHANGE = """## An exchange

One JSON object a line.
"""

ON_DISK = """## Records on disk

One JSON object a line in `segments/`, with its `type` first. Every record ends with `worker` and `boot_id`, which
name its series, `seq`, its number in the series, and `crc`, the CRC-32C of the bytes before it, in hexadecimal. How
segments are named, written and recovered is described at the top of `extproc/journal/segment.py`.
"""

PARTS = """## Parts
"""


def text() -> str:
    """The whole page."""
    return "\n".join(_sections())


def _sections() -> Iterator[str]:
    done: set[type[msgspec.Struct]] = set()
    yield HEAD
    yield EXCHANGE
    for kind in described.parts_of(joined.Exchange):
        if kind.__module__ == joined.__name__:
            yield from _section(kind, kind.__name__)
            done.add(kind)
    yield ON_DISK
    for name, kind in records.TYPES.items():
        yield from _section(kind, f"`{name}`")
        done.add(kind)
    yield PARTS
    for each in (joined.Exchange, *records.TYPES.values()):
        for kind in described.parts_of(each):
            if kind not in done:
                yield from _section(kind, kind.__name__)
                done.add(kind)


def _section(kind: type[msgspec.Struct], title: str) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"{described.doc_of(kind)}\n"
    yield "| field | type | unit | null | |"
    yield "|---|---|---|---|---|"
    of_the_journal = set(records.Record.__struct_encode_fields__)
    for field in described.described_fields(kind):
        if field.name not in of_the_journal and "Never on disk" not in field.text:
            null = field.null or ("" if not field.may_be_left_out else "never; may be left out")
            yield f"| `{field.name}` | {field.type} | {field.unit} | {null or 'never'} | {field.text} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(text())
