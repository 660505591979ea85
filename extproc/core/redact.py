"""Credentials never reach the disk: they are replaced before a record is made.

What takes their place is a mark and a short keyed hash, `redacted:3f9c0a7be1d2`, so that two requests with the
same key can be told to belong together by someone who reads the journal, and by nobody else guessed back: the
key of the hash stays on the machine.

A credential is known by the name of its header or parameter (`secret_names`), or by its own form (`secret_values`),
in headers, trailers, paths, queries and fragments. Everything else stays as it was sent, to the byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

from extproc.core import secret_names, secret_values
from extproc.core.marks import MARK
from extproc.core.record import header_value

_CACHED: Final = 2048
_CACHED_BYTES: Final = 512
"""Longer values are read anew each time, so that the caches stay small."""

_QUERY_BEGINS: Final = re.compile("[?#]")
_PARAMETER_ENDS: Final = re.compile("([&;#])")
_PAIR: Final = re.compile(
    r"""(?P<plain>(?:^|(?<=[?&;#,\s{("'<]))(?P<plain_name>[^\s=&;#?,"'<>{}()/]{1,200}+)="?)(?P<plain_value>[^\s&;#<>"']++)"""
    r"""|(?P<quoted>"(?P<quoted_name>[^"\\\s]{1,200}+)"\s*:\s*")(?P<quoted_value>(?:[^"\\]|\\.)++)"""
)
"""`name=value` and `"name": "value"`, as they stand in a header that is no URL."""
_MOST: Final = 256
"""So many parameters are looked at one by one. Nobody needs more; what is left is then replaced as a whole."""
_DEPTH: Final = 3
"""How far a URL within a URL is looked into."""
_SHORT: Final = 12
"""Shorter than any credential that has a form."""
_INDEX: Final = re.compile(r"(?:\[[0-9]*\])+$")
_SUBPROTOCOL: Final = re.compile(r"(?i)(.*?(?:key|token|bearer|auth\w*|secret|jwt)\.)(\S+)")
_SUBPROTOCOLS: Final = "sec-websocket-protocol"

FinishedHeader = tuple[str | None, str | int | None, tuple[str, str | dict[str, str]] | None]
"""What `head` makes of a header."""


class Redactor:
    """Replaces credentials. `key` keys the hash (16 to 64 bytes); `headers` and `query` are names beyond the known."""

    def __init__(self, key: bytes, headers: Iterable[str] = (), query: Iterable[str] = ()) -> None:
        self._headers = frozenset(name.lower() for name in headers)
        self._query = frozenset(name.lower() for name in query)
        self._key = key
        self.mark = lru_cache(maxsize=1024)(self._mark)
        self.is_secret = lru_cache(maxsize=_CACHED)(self._is_secret)
        self._is_parameter = lru_cache(maxsize=_CACHED)(self._is_secret_parameter)
        self._known_field = lru_cache(maxsize=_CACHED)(self._field)
        self._known_url = lru_cache(maxsize=_CACHED)(self._url)
        self.harmless: dict[tuple[str, bytes], FinishedHeader] = {}
        """What was made of headers in which there was nothing to redact, for `head`. No credential is among them."""

    def field(self, name: str, raw: bytes) -> str | dict[str, str]:
        """The value of a header or trailer (its name in lower case) as it stands in a record."""
        return (self._known_field if len(raw) <= _CACHED_BYTES else self._field)(name, raw)

    def keep(self, header: tuple[str, bytes], finished: FinishedHeader) -> None:
        """Keep what was made of a header in which there was nothing to redact."""
        if len(header[1]) <= _CACHED_BYTES:
            if len(self.harmless) >= _CACHED:
                self.harmless.clear()
            self.harmless[header] = finished

    def url(self, url: str) -> str:
        """A path or a URL with its credentials replaced; otherwise unchanged to the byte."""
        return (self._known_url if len(url) <= _CACHED_BYTES else self._url)(url)

    def authority(self, authority: str) -> str:
        """A host, with what may stand before its `@` replaced."""
        user, at, host = authority.rpartition("@")
        return (self._marked(user) + at if user else at) + host

    # -- by name ------------------------------------------------------------------------------------------------

    def _is_secret(self, name: str) -> bool:
        return name in self._headers or secret_names.is_secret(name)

    def _is_secret_parameter(self, name: str) -> bool:
        name = _INDEX.sub("", _decoded(name))
        # Azure's functions take their key as `code`, OAuth's callbacks their grant.
        return name.lower() in self._query or name.lower() == "code" or secret_names.is_secret(name)

    # -- headers ------------------------------------------------------------------------------------------------

    def _field(self, name: str, raw: bytes) -> str | dict[str, str]:
        if self.is_secret(name):
            return self.mark(raw)
        text = raw.decode("utf-8", "surrogateescape")
        kept = self._subprotocols(text) if name == _SUBPROTOCOLS else self._text(text)
        return header_value(raw if kept == text else kept.encode("utf-8", "surrogateescape"))

    def _text(self, text: str, depth: int = 0) -> str:
        if text.startswith(("/", "http://", "https://")) and " " not in text:
            return self._url(text, depth)
        return self._outside_marks(text, lambda rest: self._pairs(rest, depth))

    def _pairs(self, text: str, depth: int) -> str:
        pairs = text.count("=") + text.count('":')
        if not pairs:
            return text
        if pairs > _MOST:
            return self._marked(text)

        def replaced(match: re.Match[str]) -> str:
            kind = "plain" if match["plain"] else "quoted"
            name, value = match[f"{kind}_name"], match[f"{kind}_value"]
            kept = self._marked(value) if self._is_parameter(name) else self._value(value, depth)
            return match[kind] + kept

        return _PAIR.sub(replaced, text)

    def _subprotocols(self, text: str) -> str:
        """`openai-insecure-api-key.KEY`, `base64url.bearer.authorization.k8s.io.TOKEN`; or `access_token, TOKEN`."""
        kept = []
        secret_is_next = False
        for item in re.split(r"(\s*,\s*)", self._outside_marks(text, str)):
            named = _SUBPROTOCOL.fullmatch(item)
            if named is not None and MARK not in named[2]:
                item = named[1] + self._marked(named[2])  # noqa: PLW2901 - the item as it is kept
            elif secret_is_next and "," not in item and MARK not in item:
                item = self._marked(item)  # noqa: PLW2901
            if "," not in item:
                secret_is_next = not named and self.is_secret(item.lower())
            kept.append(item)
        return "".join(kept)

    # -- URLs ---------------------------------------------------------------------------------------------------

    def _url(self, url: str, depth: int = 0) -> str:
        begins = _QUERY_BEGINS.search(url)
        end = len(url) if begins is None else begins.start()
        kept = self._path(url[:end], depth)
        if begins is None:
            return kept
        # Every other one is the separator behind it.
        *parameters, rest = _PARAMETER_ENDS.split(url[end + 1 :], _MOST)
        return "".join(
            [kept, url[end], *(self._parameter(each, depth) for each in parameters), self._rest(rest, depth)]
        )

    def _rest(self, parameters: str, depth: int) -> str:
        more = _PARAMETER_ENDS.search(parameters)
        return self._parameter(parameters, depth) if more is None else self._marked(parameters)

    def _path(self, path: str, depth: int) -> str:
        kept = self._outside_marks(path, str)
        if "%" not in kept and ";" not in kept:
            return kept
        if kept.count("/") + kept.count(";") > _MOST:
            return self._marked(path)
        return "/".join(self._segment(segment, depth) for segment in kept.split("/"))

    def _segment(self, segment: str, depth: int) -> str:
        name, *parameters = segment.split(";")
        return ";".join([self._nested(name, depth), *(self._parameter(each, depth) for each in parameters)])

    def _parameter(self, parameter: str, depth: int) -> str:
        name, equals, value = parameter.partition("=")
        if not equals or not value:
            return self._value(parameter, depth)
        return name + equals + (self._marked(value) if self._is_parameter(name) else self._value(value, depth))

    def _value(self, value: str, depth: int) -> str:
        """A value whose name is no secret, but which may be a URL with secrets of its own, encoded or not."""
        if len(value) < _SHORT and value.isalnum():
            return value
        if depth < _DEPTH and ("=" in value or "?" in value):
            kept = self._text(value, depth + 1)
        else:
            kept = self._outside_marks(value, str)
        return self._nested(kept, depth) if kept == value else kept

    def _nested(self, value: str, depth: int) -> str:
        if "%" not in value or depth >= _DEPTH:
            return value
        decoded = _decoded(value)
        return value if self._text(decoded, depth + 1) == decoded else self._marked(value)

    # -- marks --------------------------------------------------------------------------------------------------

    def _outside_marks(self, text: str, rest: Callable[[str], str]) -> str:
        """The text with marks for what is a credential by its form, and `rest` of what is not."""
        spans = secret_values.spans(text)
        if not spans:
            return rest(text)
        pieces, at = [], 0
        for start, end in spans:
            pieces += [rest(text[at:start]), self._marked(text[start:end])]
            at = end
        return "".join([*pieces, rest(text[at:])])

    def _marked(self, value: str) -> str:
        return self.mark(value.encode("utf-8", "surrogatepass"))

    def _mark(self, value: bytes) -> str:
        return MARK + hashlib.blake2b(value, key=self._key, digest_size=6).hexdigest()


def parameter_name(text: str) -> str:
    """The name of a query parameter as it is compared: that of `%6Bey[]=x` is `key`."""
    return _INDEX.sub("", _decoded(text.partition("=")[0])).lower()


def _decoded(text: str) -> str:
    """Without percent-encoding, be it threefold."""
    for _ in range(3):
        if "%" not in text:
            return text
        text = unquote_plus(text)
    return text
