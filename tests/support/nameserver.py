"""A DNS server whose answers a test decides: A records of a few names, over UDP on loopback.

with NameServer({"llm.test": ["127.0.0.1", "127.0.0.2"]}) as server:
    server.names["llm.test"] = ["127.0.0.3"]
    server.names["llm.test"] = None              # it fails (SERVFAIL)
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final, Self

_A: Final = 1
_HEADER: Final = struct.Struct(">6H")
_ANSWER: Final = 0x8400  # an answer, with authority
_SERVFAIL: Final = 2
_NXDOMAIN: Final = 3
_TO_THE_NAME: Final = 0xC00C  # where the question has it


class NameServer:
    """`names`: the addresses of each name. `asked`: every name that was asked for, as it was written."""

    def __init__(self, names: dict[str, list[str] | None], ttl: int = 1) -> None:
        self.names = names
        self.ttl = ttl
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.closing(self._socket):
            self._socket.sendto(b"", ("127.0.0.1", self.port))
            self._thread.join()

    def resolver(self) -> str:
        """The `typed_dns_resolver_config` that asks this server, in YAML."""
        return (
            "{name: envoy.network.dns_resolver.cares, typed_config: {"
            '"@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, '
            f"resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {self.port}}}}}]}}}}"
        )

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        number = _HEADER.unpack_from(query)[0]
        labels, at = [], _HEADER.size
        while size := query[at]:
            labels.append(query[at + 1 : at + 1 + size].decode("ascii"))
            at += 1 + size
        (kind,) = struct.unpack_from(">H", query, at + 1)
        question = query[_HEADER.size : at + 5]
        name = ".".join(labels)
        self.asked.append(name)
        addresses = self.names.get(name.lower(), [])
        code = _SERVFAIL if addresses is None else 0 if name.lower() in self.names else _NXDOMAIN
        found = [socket.inet_aton(each) for each in addresses or () if kind == _A]
        records = (struct.pack(">HHHIH", _TO_THE_NAME, _A, 1, self.ttl, 4) + each for each in found)
        return _HEADER.pack(number, _ANSWER | code, 1, len(found), 0, 0) + question + b"".join(records)
