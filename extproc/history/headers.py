"""Headers as a record has them: pairs of a name and a value, which is text, or bytes that are none in base64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def header_bytes(value: Any) -> bytes:
    """A header's value as it was on the wire."""
    import base64  # noqa: PLC0415 - hardly any header needs it, and every command starts without it

    if isinstance(value, Mapping):
        return base64.b64decode(str(value.get("base64", "")))
    return str(value).encode("utf-8", "surrogatepass")


def header_text(value: Any) -> str:
    """The same as text: one that is not UTF-8 with its odd bytes as escapes."""
    return header_bytes(value).decode("utf-8", "backslashreplace")
