"""One worker's listening server: which transport, which address, TLS, and who may connect.

A Unix socket is made 0660, its directory 0750 when it is ours to make, so that Envoy needs no more than our
group. A socket left behind by a killed worker is removed, but only when nobody answers on it. TCP without TLS
is for loopback only: every prompt crosses this connection in the clear.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from extproc.config import Config, host_and_port, is_loopback
from extproc.errors import ConfigError, StackError
from extproc.service import http2
from extproc.service.health import Health
from extproc.service.transport import Endpoint, NewProcessor, Timers, Transport

if TYPE_CHECKING:
    import grpc


def start(
    config: Config, worker: int, processors: NewProcessor, timers: Timers, health: Health
) -> tuple[Transport, str]:
    """The server of one worker, listening, and its address as bound. Raises ConfigError or StackError."""
    address = config.address(worker)
    credentials = None
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        _make_room(path)
    else:
        path = None
        credentials = _credentials(config)
        if credentials is None and not is_loopback(host_and_port(address)[0]):
            raise ConfigError(
                f"listen: {address} is not on loopback, and prompts would cross the network in the clear; "
                "use 127.0.0.1:PORT, unix:PATH, or tls_certificate and tls_private_key"
            )
    endpoint = Endpoint(address, credentials, _connections(config.max_connections), config.max_streams)
    server = _transport(config.transport, credentials)(endpoint, processors, timers, health)
    bound = server.start()
    if path is not None:
        path.chmod(0o660)  # until here it was narrower: workers run with umask 077
    return server, bound


def _connections(wanted: int) -> int:
    """At most half of the files that may be open: the other half is the journal's, and what is spooled."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files // 2))


def _transport(
    name: str, credentials: grpc.ServerCredentials | None
) -> Callable[[Endpoint, NewProcessor, Timers, Health], Transport]:
    if name == "http2" and credentials is None:
        return http2.Http2Server
    from extproc.service import aio  # noqa: PLC0415 - grpcio and asyncio are for those who use them

    return aio.AioServer


def _make_room(path: Path) -> None:
    try:
        path.parent.parent.mkdir(0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # the user's, or another worker's of ours
            path.parent.mkdir(0o750)
            path.parent.chmod(0o750)  # whatever the umask took away
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"listen: {path} exists and is no socket; remove it or name another path")
        if _answers(path):
            raise StackError(f"another process listens on {path}; is a sidecar running already?")
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(f"listen: {path}: {error.strerror}") from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _credentials(config: Config) -> grpc.ServerCredentials | None:
    certificate, key, client_ca = config.tls_certificate, config.tls_private_key, config.tls_client_ca
    if certificate is None or key is None:
        return None
    # gRPC says only that it cannot listen; the ssl module says what is wrong.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = f"tls_certificate {certificate}, tls_private_key {key}"
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            files = f"tls_client_ca {client_ca}"
            context.load_verify_locations(client_ca)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{files}: {error.strerror or error}") from error
    import grpc  # noqa: PLC0415 - as above

    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=None if client_ca is None else client_ca.read_bytes(),
        require_client_auth=client_ca is not None,
    )
