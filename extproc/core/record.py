"""The audit record as a line: one JSON object, ASCII only, closed by its own checksum.

`encode` makes the object from an exchange's fields. `seal` adds what only the journal knows and the line end:

    {"type":"request",...,"worker":0,"boot_id":"0193c0de","seq":17,"crc":"8f3a11c0"}\\n

`crc` is always the last member: CRC-32C, in eight hexadecimal digits, of the bytes before `,"crc"`. As every
byte from a client stands inside a JSON string, and every control character in it is escaped, no body can hold
a line end or look like a record. `unseal` is the way back and the only judge of whether a line is whole.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import google_crc32c
import msgspec

LONGEST = 32 * 1024 * 1024
"""Bytes of the longest record. A longer one is never written, so that no reader has to take garbage for a line."""
LONGEST_LINE = LONGEST + 1024
"""With what `seal` adds."""

_SEAL = b',"crc":"'
_TAIL = len(_SEAL) + 8 + len(b'"}')
_KEPT = b'"":{'  # as it cannot stand within a text, where quotes are escaped
_LONG_INTEGER_BITS = 8192  # under the 4,300 digits that sys.int_info allows

_encode_fast = msgspec.json.Encoder().encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode
_decode = msgspec.json.Decoder().decode


class DamagedLine(ValueError):
    """A line that is not what was written: cut, changed or not ours. The text says what was seen."""


def encode(fields: Any) -> bytes:
    """One record as a JSON object without a line end, ASCII only.

    Content never makes it raise: NaN and infinities become null, and an integer of more digits than Python turns
    into text becomes a string in hexadecimal.
    """
    try:
        line = _encode_fast(fields)
        if line.isascii() and b"\n" not in line and _KEPT not in line:
            return line
    except (UnicodeEncodeError, OverflowError, ValueError, TypeError, RecursionError):
        pass  # a lone surrogate or a very long number: the slower encoder writes both
    try:
        return _encode_ascii(plain(fields)).encode("ascii")
    except RecursionError:  # only `llm` holds values that a client nested
        shallow = msgspec.structs.asdict(fields) if isinstance(fields, msgspec.Struct) else fields
        return _encode_ascii(plain({**shallow, "llm": {"parse_error": "nested too deeply to be written"}})).encode()


def json_line(value: Any) -> str:
    """Any value as one line of JSON, ASCII only: safe for a terminal, and for every reader of lines."""
    # DEL is the one control character that JSON leaves as it is.
    return encode(value).decode("ascii").replace("\x7f", "\\u007f")


def seal(record: bytes, worker: int, boot_id: str, seq: int) -> bytes:
    """The line for `record` (as `encode` made it), with the journal's members, the checksum and the line end."""
    start = b'%b,"worker":%d,"boot_id":"%b","seq":%d' % (record[:-1], worker, boot_id.encode(), seq)
    return b'%b,"crc":"%08x"}\n' % (start, google_crc32c.value(start))


def unseal(line: bytes) -> dict[str, Any]:
    """The record in a line, with or without its line end. Raises `DamagedLine` when a byte is not as written."""
    return decode(whole(line))


def whole(line: bytes) -> bytes:
    """A line without its line end, once its checksum is found right. Raises `DamagedLine`."""
    line = line.removesuffix(b"\n")
    start, tail = line[:-_TAIL], line[-_TAIL:]
    seen = b"%08x" % google_crc32c.value(start)
    if tail == b'%b%b"}' % (_SEAL, seen):
        return line
    if not (tail.startswith(_SEAL) and tail.endswith(b'"}')):
        raise DamagedLine("the line does not end with a checksum")
    noted = tail[len(_SEAL) : -2].decode("ascii", "replace")
    raise DamagedLine(f"the checksum is {noted}, the bytes give {seen.decode()}")


def decode(line: bytes) -> dict[str, Any]:
    """The JSON object of a line that is whole. Raises `DamagedLine` where it is none."""
    record = decode_any(line)
    if not isinstance(record, dict):
        raise DamagedLine("the line is not a JSON object")
    return record


def decode_any(text: bytes) -> Any:
    """Any value that `encode` has written."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        # Beyond the fast decoder: a lone surrogate, or nesting that only we wrote.
        return _decode_slowly(text, error)


def header_value(raw: bytes) -> str | dict[str, str]:
    """A header's value as it stands in a record: text where it is UTF-8, else marked base64."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode("ascii")}


def _decode_slowly(line: bytes, error: Exception) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise DamagedLine(f"the checksum is right but the JSON is not: {error}") from error


def plain(value: Any) -> Any:
    """The same value as dicts and lists, with every number one that any reader of JSON can hold.

    A type's member without a name holds what was kept of a newer version: its members come behind the others.
    """
    match value:
        case str() | bool() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case int():
            return value if value.bit_length() < _LONG_INTEGER_BITS else hex(value)
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case msgspec.Raw():
            return json.loads(bytes(value))
        case msgspec.Struct():
            return _members(value)
        case _:
            return str(value)


def _members(value: msgspec.Struct) -> dict[str, Any]:
    config = value.__struct_config__
    members: dict[str, Any] = {} if config.tag_field is None else {config.tag_field: config.tag}
    kept: dict[str, Any] = {}
    for name, attribute, default in zip(
        value.__struct_encode_fields__, value.__struct_fields__, _defaults(type(value)), strict=True
    ):
        member = getattr(value, attribute)
        if member is not msgspec.UNSET and not (config.omit_defaults and member is default):
            if name:
                members[name] = plain(member)
            else:
                kept = plain(member)
    return members | kept


@cache
def _defaults(type: type[msgspec.Struct]) -> tuple[Any, ...]:
    return tuple(field.default for field in msgspec.structs.fields(type))
