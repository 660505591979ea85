"""Whether a URL leads to an upstream, as Envoy writes its address."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
from typing import Final

_PORTS: Final = {"http": 80, "https": 443}


def same(url: str, upstream: str) -> bool:
    """Whether the server at `url` is the upstream `ADDRESS:PORT`, by any of its names and addresses."""
    parts = urllib.parse.urlsplit(url)
    host, _, port = upstream.rpartition(":")
    if str(parts.port or _PORTS.get(parts.scheme)) != port:
        return False
    return bool(_addresses(parts.hostname or "") & _addresses(host.strip("[]")))


def _addresses(host: str) -> set[str]:
    found = {host}
    with contextlib.suppress(OSError):
        found |= {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
    return found
