"""A recorded request, ready to be sent once more: by us, or by a curl command.

What was recorded stands in it to the byte. Where the record has a mark in the place of a credential, a `Variable`
stands here: the environment's variable that `--credential NAME=ENV` named. A credential that nobody gave is left out
and named in `missing`; a mark is never sent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote

from extproc.core.marks import MARK
from extproc.core.redact import parameter_name
from extproc.errors import ConfigError
from extproc.history.headers import header_bytes
from extproc.history.join import Exchange

PATH: Final = ":path"
"""The name, in `--credential`, of a credential in the path itself."""

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""The name of a header, as HTTP has it."""

_NOT_SENT: Final = frozenset(
    {
        # Of one connection (RFC 9110 section 7.6.1), or computed anew.
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # Added by Envoy on the way in: the replay does not come that way.
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-external-address",
        "x-envoy-internal",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
        # The replay is a request of its own, not a part of the recorded one's trace.
        "traceparent",
        "tracestate",
    }
)
_MARKS: Final = re.compile(rb"(" + re.escape(MARK).encode() + rb"[0-9a-f]{12})")
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_WITH_SCHEME: Final = frozenset({"authorization", "proxy-authorization", "cf-aig-authorization", "helicone-auth"})


@dataclass(frozen=True, slots=True)
class Variable:
    """A credential that a variable of the environment holds. `bearer`: without a scheme of its own it is a token."""

    name: str
    bearer: bool = False

    def value(self, environ: Mapping[str, str]) -> bytes:
        """What stands in the request. Raises ConfigError where nothing can."""
        text = environ.get(self.name, "")
        # The text is not repeated in the message: it is a credential.
        if not text:
            raise ConfigError(f"--credential: the variable {self.name} is not set")
        if re.search(r"[\r\n\0]", text):
            raise ConfigError(f"--credential: the variable {self.name} holds a line feed or a NUL")
        return os.fsencode("Bearer " + text if self.bearer and " " not in text else text)


Text = tuple[bytes | Variable, ...]
"""Bytes with credentials in them."""


def resolve(text: Text, environ: Mapping[str, str]) -> bytes:
    """The bytes, with each credential from its variable."""
    return b"".join(part.value(environ) if isinstance(part, Variable) else part for part in text)


@dataclass(frozen=True, slots=True)
class Request:
    """A recorded request: what is sent of it, and which credentials of it are not."""

    id: str
    started_at: str
    method: str
    target: Text
    scheme: str
    authority: str
    headers: list[tuple[str, Text]]
    body: bytes
    missing: list[str]

    @property
    def variables(self) -> list[Variable]:
        """Those that hold its credentials, each once."""
        texts = (self.target, *(text for _, text in self.headers))
        return list(dict.fromkeys(part for text in texts for part in text if isinstance(part, Variable)))

    def with_document(self, document: Mapping[str, Any]) -> Request:
        """The same for another body, in JSON: of its headers only those that say who asks."""
        headers: list[tuple[str, Text]] = [("content-type", (b"application/json",))]
        headers += [(name, text) for name, text in self.headers if _is_credential(name, text)]
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return replace(self, headers=headers, body=body)


def _is_credential(name: str, text: Text) -> bool:
    return name in _WITH_SCHEME or name in ("api-key", "x-api-key") or any(isinstance(part, Variable) for part in text)


def prepare(
    exchange: Exchange,
    body: bytes,
    credentials: Mapping[str, Sequence[str]],
    headers: Sequence[tuple[str, bytes]] = (),
    *,
    check: bool = True,
) -> Request:
    """The request of an exchange, with `headers` in the place of those of the same names.

    `credentials`: for each name, in lower case, the variables that hold what was not recorded: of several that the
    request had under one name, in their order. Raises ConfigError for one in the path itself that is missing, and,
    with `check`, for one that the request never had.
    """
    marks = _Marks(credentials)
    given = {name for name, _ in headers}
    kept: list[tuple[str, Text]] = []
    for name, value in (exchange.request and exchange.request.headers) or ():
        raw = header_bytes(value)
        if name in _NOT_SENT or name in given or not TOKEN.fullmatch(name) or re.search(rb"[\r\n\0]", raw):
            continue
        text = marks.fill(name, raw)
        if text is not None:
            kept.append((name, text))
    target = _target(exchange.path or "/", marks)
    if check:
        marks.check()
    scheme = exchange.scheme
    return Request(
        id=exchange.id,
        started_at=exchange.started_at,
        method=exchange.method or "POST",
        target=target,
        scheme=scheme if scheme in ("http", "https") else "http",
        authority=exchange.authority or "",
        headers=[*kept, *((name, (value,)) for name, value in headers)],
        body=body,
        missing=list(marks.missing),
    )


@dataclass(slots=True)
class _Marks:
    """The marks that were met, and the variables that stand in their place."""

    credentials: Mapping[str, Sequence[str]]
    seen: dict[str, list[bytes]] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)

    def fill(self, name: str, raw: bytes) -> Text | None:
        """The bytes with a variable in the place of each mark; None where one is missing."""
        pieces = [piece for piece in _MARKS.split(raw) if piece]
        parts = [
            self._variable(name, piece, alone=len(pieces) == 1) if _MARKS.match(piece) else piece for piece in pieces
        ]
        return tuple(part for part in parts if part is not None) if None not in parts else None

    def _variable(self, name: str, mark: bytes, *, alone: bool) -> Variable | None:
        marks, variables = self.seen.setdefault(name, []), self.credentials.get(name, ())
        if mark not in marks:
            marks.append(mark)
        number = marks.index(mark)
        if number < len(variables):
            return Variable(variables[number], bearer=alone and name in _WITH_SCHEME)
        self.missing[name] = None
        return None

    def check(self) -> None:
        """Raise for a credential that this request never had."""
        for name in self.credentials:
            if name not in self.seen:
                had = ", ".join(self.seen) or "none"
                raise ConfigError(f"--credential {name}: the recorded request has no such credential; it has {had}")


def _target(path: str, marks: _Marks) -> Text:
    """The request's target, each parameter without its credential left out."""
    # What no request line can hold is sent as a client would have had to send it.
    raw = quote(path, safe=_PRINTABLE, errors="surrogatepass").encode()
    end = _path_end(raw)
    start, query = raw[:end], raw[end:]
    filled = marks.fill(PATH, start)
    if filled is None:
        raise ConfigError(f"the path holds a credential, which was not recorded; --credential {PATH}=ENV gives it back")
    parts, separator = list(filled), b""
    for parameter in re.findall(rb".[^&;#]*", query):
        before, text = parameter[:1], parameter[1:]
        if before == b"#" or separator not in (b"?", b"#"):  # the first that is kept stands where the query begins
            separator = before
        kept = marks.fill(parameter_name(text.decode()), text)
        if kept is not None:
            parts += [separator, *kept]
            separator = b""
    return tuple(parts)


def _path_end(target: bytes) -> int:
    found = re.search(rb"[?#]", target)
    return found.start() if found else len(target)
