"""Header blocks: HPACK (RFC 7541), and what the fields of a gRPC request mean.

The client is told SETTINGS_HEADER_TABLE_SIZE 0, so that a block means the same whenever it comes, and one that was
seen before costs a look-up. Until the client has read that it uses the dynamic table (Envoy does, in its first burst),
and some go on with it; a block that touches the table is decoded by `hpack` each time, and never kept.

With tracing on each block is another, for its `traceparent`: then its strings are kept, one by one. What is kept are
fields of Envoy's gRPC calls, not those of the requests that it carries; they are few, and bounded.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from dataclasses import dataclass
from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

MAX_LIST: Final = 64 * 1024
"""Bytes of a header list, as RFC 9113 counts them; a longer one ends its stream."""
MAX_BLOCK: Final = 256 * 1024
"""Bytes of a block on the wire, and of a list that uses the table: more ends the connection."""

_KEPT_BLOCKS: Final = 256
_KEPT_BLOCK_BYTES: Final = 4096
_KEPT_STRINGS: Final = 1024
_KEPT_STRING_BYTES: Final = 256
_TABLE_BYTES: Final = 4096
"""The size of the dynamic table until the client has acknowledged ours, which is 0."""

Field = tuple[bytes, bytes]
Metadata = tuple[tuple[str, str | bytes], ...]

_STATIC: Final[tuple[Field, ...]] = tuple(HeaderTable.STATIC_TABLE)
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_OF_CONNECTIONS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_NOT_METADATA: Final = frozenset({b"te", b"content-type", b"content-length"})
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"(?:[^\0\r\n \t](?:[^\0\r\n]*[^\0\r\n \t])?)?")


class NotDecodableError(Exception):
    """The block cannot be decoded; the connection cannot go on."""


class MalformedError(Exception):
    """The fields are not those of a request: a stream error."""


class TooLargeError(Exception):
    """The list is larger than MAX_LIST."""


class FloodError(Exception):
    """The list grows beyond MAX_BLOCK out of the dynamic table; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a request's header list says."""

    path: str
    metadata: Metadata
    content_length: int | None = None
    compressed: bool = False
    """Its messages may be compressed, by `grpc-encoding`."""
    refusal: int = 0
    """The HTTP status that what is no gRPC gets: 405, 415."""


Known = dict[bytes, Request]
"""Requests by their blocks, shared by the connections of a server."""


class Fields:
    """The decoder of one connection."""

    def __init__(self, known: Known, table_bytes: int) -> None:
        self._known = known
        self._table_bytes = table_bytes
        self._limit = _TABLE_BYTES
        # Its own limit stays as it is: clients that go on with the table are understood.
        self._decoder = Decoder(MAX_BLOCK)

    def settings_acknowledged(self) -> None:
        """From now on the client knows how large its table may be: `table_bytes`."""
        self._limit = self._table_bytes

    def request(self, block: bytes) -> Request:
        """The request of a block. Raises each of this module's exceptions."""
        known = self._known.get(block)
        if known is not None:
            return known
        stateless = _stateless(block)
        fields = self._decode(block) if stateless is None else stateless
        if _size(fields) > MAX_LIST:
            raise TooLargeError
        request = _request(fields)
        if stateless is not None and len(block) <= _KEPT_BLOCK_BYTES:
            if len(self._known) >= _KEPT_BLOCKS:
                self._known.clear()
            self._known[block] = request
        return request

    def trailers(self, block: bytes) -> None:
        """Trailers mean nothing to us, but they may change the table. Raises the same."""
        for name, value in self._decode(block):
            if name[:1] == b":":
                raise MalformedError
            _check(name, value)

    def skip(self, block: bytes) -> None:
        """A block of a stream that is over. Raises NotDecodableError and FloodError."""
        self._decode(block)

    def _decode(self, block: bytes) -> list[Field]:
        try:
            return list(self._decoder.decode(self._resized(block), raw=True))
        except OversizedHeaderListError:
            raise FloodError from None
        except (HPACKError, IndexError):  # the latter is ours: a size that is cut
            raise NotDecodableError from None

    def _resized(self, block: bytes) -> bytes:
        """The block after its changes of the table's size, which may stand at its beginning only."""
        at = 0
        while at < len(block) and block[at] & 0xE0 == 0x20:
            size, at = _integer(block, at, 5)
            if not 0 <= size <= self._limit:
                raise NotDecodableError
            self._decoder.header_table_size = size
        return block[at:]


def _stateless(block: bytes) -> list[Field] | None:
    """The fields of a block that touches no table; None: it does, or it is damaged, which `hpack` is to tell."""
    fields: list[Field] = []
    at, end = 0, len(block)
    try:
        while at < end:
            first = block[at]
            if first & 0x80:
                index = first & 0x7F
                if not 0 < index <= len(_STATIC):
                    return None
                fields.append(_STATIC[index - 1])
                at += 1
                continue
            if first & 0x60:  # to be put into the table, or another size of it
                return None
            index, at = _integer(block, at, 4)
            if index > len(_STATIC):
                return None
            if index > 0:
                name = _STATIC[index - 1][0]
            elif index == 0:
                name, at = _string(block, at)
            else:
                return None
            value, at = _string(block, at)
            fields.append((name, value))
    except (IndexError, HPACKError):
        return None
    return fields if at == end else None


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer and where it ends; -1: it is longer than any that makes sense. Raises IndexError when it is cut."""
    most = (1 << bits) - 1
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    for shift in (0, 7, 14, 21):
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    return -1, at


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    huffman = block[at] & 0x80
    length, at = _integer(block, at, 7)
    end = at + length
    if length < 0 or end > len(block):
        raise IndexError
    text = block[at:end]
    if not huffman:
        return text, end
    return (_unpacked(text) if length <= _KEPT_STRING_BYTES else decode_huffman(text)), end


_unpacked = functools.lru_cache(_KEPT_STRINGS)(decode_huffman)


def _size(fields: list[Field]) -> int:
    return sum(len(name) + len(value) + 32 for name, value in fields)


def _request(fields: list[Field]) -> Request:
    pseudo: dict[bytes, bytes] = {}
    others: list[Field] = []
    for name, value in fields:
        if name[:1] == b":":
            if others or name in pseudo or name not in _PSEUDO:
                raise MalformedError
            pseudo[name] = value
        else:
            _check(name, value)
            others.append((name, value))
    method = pseudo.get(b":method")
    # CONNECT alone has neither scheme nor path.
    if not method or (method != b"CONNECT" and not (pseudo.get(b":scheme") and pseudo.get(b":path"))):
        raise MalformedError
    named = dict(others)
    return Request(
        path=pseudo.get(b":path", b"").decode("latin-1"),
        metadata=tuple(_metadata(others)),
        content_length=_content_length(others),
        compressed=named.get(b"grpc-encoding", b"identity") != b"identity",
        refusal=_refusal(method, named.get(b"content-type", b"")),
    )


def _check(name: bytes, value: bytes) -> None:
    """Raises MalformedError for a field that RFC 9113 forbids, in sections 8.2.1 and 8.2.2."""
    if (
        not _NAME.fullmatch(name)
        or not _VALUE.fullmatch(value)
        or name in _OF_CONNECTIONS
        or (name == b"te" and value != b"trailers")
    ):
        raise MalformedError


def _content_length(fields: list[Field]) -> int | None:
    lengths = {value for name, value in fields if name == b"content-length"}
    if not lengths:
        return None
    (length, *others) = lengths
    if others or not length.isdigit() or len(length) > 19:
        raise MalformedError
    return int(length)


def _refusal(method: bytes, content_type: bytes) -> int:
    if method != b"POST":
        return 405
    grpc, _, rest = content_type.partition(b"application/grpc")
    return 0 if not grpc and content_type and rest[:1] in {b"", b"+", b";"} else 415


def _metadata(fields: list[Field]) -> list[tuple[str, str | bytes]]:
    """What is the application's: gRPC's own fields are left out, and `-bin` ones are decoded."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name in _NOT_METADATA or name[:5] == b"grpc-":
            continue
        text = name.decode("ascii")
        if name[-4:] != b"-bin":
            found.append((text, value.decode("latin-1")))
            continue
        for each in value.split(b","):
            try:
                found.append((text, base64.b64decode(each.strip() + b"=" * (-len(each.strip()) % 4), validate=True)))
            except binascii.Error:
                raise MalformedError from None
    return found
