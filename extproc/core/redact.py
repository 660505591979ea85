"""Credentials never reach the disk: they are replaced before a record is made.

What takes their place is a mark and a short keyed hash, `redacted:3f9c0a7be1d2`, so that two requests with the
same key can be told to belong together by someone who reads the journal, and by nobody else guessed back: the
key of the hash stays on the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote_plus

HEADERS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "x-amz-security-token",
    }
)
"""Headers that carry credentials, in either direction."""

QUERY = frozenset({"key", "api_key", "api-key", "apikey", "access_token"})
"""Query parameters that carry credentials."""

_WITH_URL = frozenset({"referer", "location", "content-location", "x-envoy-original-path", "x-original-url"})
MARK = "redacted:"


class Redactor:
    """Replaces the values of named headers and query parameters. `key` keys the hash (16 to 64 bytes)."""

    def __init__(self, key: bytes, headers: Iterable[str] = (), query: Iterable[str] = ()) -> None:
        self._headers = HEADERS | {name.lower() for name in headers}
        self._query = QUERY | {name.lower() for name in query}
        self._key = key
        self.mark = lru_cache(maxsize=1024)(self._mark)

    def is_secret(self, name: str) -> bool:
        """Whether the value of this header (in lower case) must not be written."""
        return name in self._headers

    def has_url(self, name: str) -> bool:
        """Whether the value of this header is a URL, which may carry a secret."""
        return name in _WITH_URL

    def url(self, url: str) -> str:
        """A path or URL with the values of secret query parameters replaced; otherwise unchanged to the byte."""
        start, question, query = url.partition("?")
        if not question:
            return url
        query, hash_sign, fragment = query.partition("#")
        return start + "?" + "&".join(map(self._parameter, query.split("&"))) + hash_sign + fragment

    def _parameter(self, parameter: str) -> str:
        name, equals, value = parameter.partition("=")
        if value and unquote_plus(name).lower() in self._query:
            return name + equals + self.mark(value.encode("utf-8", "surrogatepass"))
        return parameter

    def _mark(self, value: bytes) -> str:
        return MARK + hashlib.blake2b(value, key=self._key, digest_size=6).hexdigest()


def parameter_name(text: str) -> str:
    """The name of a query parameter as it is compared: `%6Bey[]=x` is `key`."""
    return unquote_plus(text.partition("=")[0]).partition("[")[0].lower()
