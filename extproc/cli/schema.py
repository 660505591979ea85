"""`extproc log --schema`: a JSON Schema of what `log --json` and `show --json` print."""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.core import described
from extproc.core.joined import Exchange
from extproc.journal.segment import VERSION

ID = "urn:extproc:exchange"


def schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12, of one line; `version` is that of the format. A later one may have more members."""
    found = msgspec.json.schema(Exchange)
    for kind in described.parts_of(Exchange):
        definition = found["$defs"][kind.__name__]
        fields = described.described_fields(kind)
        definition["description"] = described.doc_of(kind)
        definition["properties"] = {
            field.name: _described(definition["properties"][field.name], field) for field in fields
        }
        definition["required"] = [field.name for field in fields if not field.may_be_left_out]
        definition.pop("additionalProperties", None)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{ID}:{VERSION}",
        "title": "An exchange",
        "version": VERSION,
    }
    return head | found


def _described(member: dict[str, Any], field: described.Field) -> dict[str, Any]:
    member = {name: value for name, value in member.items() if name != "default"}
    null = f"Null {field.null}." if field.null else ""
    text = " ".join(filter(None, (field.text, f"Unit: {field.unit}." if field.unit else "", null)))
    return {**member, "description": text} if text else member
