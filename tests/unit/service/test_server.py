"""Which transport, which address, who may connect."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Authority
from support.transports import Fake, Running, Talk, connected

from extproc.config import UNIX_PATH_BYTES, Config
from extproc.errors import ConfigError, StackError
from extproc.service import aio, http2, server
from extproc.service.transport import Endpoint


class Started:
    """A server as `server.start` makes it, its loop in a thread."""

    def __init__(self, config: Config, worker: int = 0) -> None:
        self.fake = Fake()
        self.server, self.address = server.start(config, worker, self.fake.processor, self.fake, self.fake.health)
        self.running = Running(_AlreadyStarted(self.server, self.address))


class _AlreadyStarted:
    def __init__(self, inner: Any, address: str) -> None:
        self.start = lambda: address
        self.run = inner.run
        self.stop = inner.stop


@contextlib.contextmanager
def started(config: Config, worker: int = 0) -> Iterator[Started]:
    """Start a server, and stop it at the end."""
    one = Started(config, worker)
    try:
        yield one
    finally:
        one.running.server.stop(0.0)
        one.running.join()


@pytest.fixture(params=["http2", "aio"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """The default settings, with each transport."""
    return Config(data_dir=tmp_path / "data", transport=request.param)


def echoes(address: str, credentials: grpc.ChannelCredentials | None = None) -> bool:
    """Whether a client gets through."""
    with connected(address, credentials) as channel:
        talk = Talk(channel)
        talk.say(b"hello")
        talk.half_close()
        return bool(talk.status() == grpc.StatusCode.OK)


# -- Unix sockets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o077, 0o000, 0o027])
def test_the_socket_is_for_our_group_and_nobody_else(config: Config, umask: int) -> None:
    """0660 in a directory of 0750, whatever the umask."""
    before = os.umask(umask)
    try:
        with started(config) as one:
            path = Path(one.address.removeprefix("unix:"))
            assert path == config.data_dir / "run" / "extproc.sock"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
            assert echoes(one.address)
    finally:
        os.umask(before)


def test_a_directory_that_exists_is_left_as_it_is(config: Config, tmp_path: Path) -> None:
    """Somebody else's choice of mode."""
    tmp_path.chmod(0o711)
    with started(dataclasses.replace(config, listen=f"unix:{tmp_path}/sock")):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711


def test_each_worker_has_a_socket_of_its_own(config: Config) -> None:
    """Worker N > 0 adds .N to the path."""
    with started(config, 0) as zero, started(config, 2) as two:
        assert two.address == f"{zero.address}.2"
        assert echoes(zero.address)
        assert echoes(two.address)


def test_a_socket_left_by_a_crash_is_replaced(config: Config) -> None:
    """Nobody answers on it."""
    path = config.data_dir / "run" / "extproc.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    with started(config) as one:
        assert echoes(one.address)


def test_a_socket_that_answers_is_not_taken_over(config: Config) -> None:
    """gRPC alone would remove it from under the other process."""
    with started(config) as first:
        with pytest.raises(StackError, match=r"another process listens on .*extproc\.sock"):
            Started(config)
        assert echoes(first.address)


def test_a_file_in_the_way_is_not_removed(config: Config) -> None:
    """It is somebody's file."""
    path = config.data_dir / "run" / "extproc.sock"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is no socket"):
        Started(config)
    assert path.read_text() == "mine"


def test_a_path_that_is_too_long(config: Config, tmp_path: Path) -> None:
    """The error names the limit. For the last worker too, whose path is longer."""
    path = f"{tmp_path}/".ljust(UNIX_PATH_BYTES, "x")
    fitting = dataclasses.replace(config, listen=f"unix:{path}")
    with started(fitting) as one:
        assert echoes(one.address)
    for too_long, worker in ((dataclasses.replace(config, listen=f"unix:{path}x"), 0), (fitting, 1)):
        with pytest.raises(ConfigError, match="107"):
            Started(too_long, worker)


def test_a_directory_that_cannot_be_made(config: Config, tmp_path: Path) -> None:
    """The system's reason, with the path."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run/sock: (File exists|Not a directory)"):
        Started(dataclasses.replace(config, listen=f"unix:{tmp_path}/file/run/sock"))


# -- TCP and TLS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0"])
def test_loopback_needs_no_tls(config: Config, listen: str) -> None:
    """Port 0 becomes the bound one."""
    with started(dataclasses.replace(config, listen=listen)) as one:
        host, _, port = one.address.rpartition(":")
        assert host == listen.partition(":")[0]
        assert int(port) > 0
        assert echoes(one.address)


def test_each_worker_has_a_port_of_its_own(config: Config) -> None:
    """Worker N adds N to the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listening = dataclasses.replace(config, listen=f"127.0.0.1:{port - 3}")
    with started(listening, 3) as one:
        assert one.address == f"127.0.0.1:{port}"


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:4000", "example.org:4000"])
def test_other_addresses_need_tls(config: Config, listen: str) -> None:
    """Prompts would cross the network in the clear."""
    with pytest.raises(ConfigError, match="not on loopback"):
        Started(dataclasses.replace(config, listen=listen))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that both sides trust."""
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture
def tls(config: Config, authority: Authority) -> Config:
    """TLS on every address of the machine."""
    certificate, key = authority.sign("server")
    return dataclasses.replace(config, listen="0.0.0.0:0", tls_certificate=certificate, tls_private_key=key)


def client(trusts: Authority, signed_by: Authority | None = None) -> grpc.ChannelCredentials:
    """What a client trusts, and the authority that signed its certificate, if it has one."""
    if signed_by is None:
        return grpc.ssl_channel_credentials(trusts.certificate.read_bytes())
    certificate, key = signed_by.sign("client")
    return grpc.ssl_channel_credentials(trusts.certificate.read_bytes(), key.read_bytes(), certificate.read_bytes())


def test_tls(tls: Config, authority: Authority, stranger: Authority) -> None:
    """With a certificate any address may be listened on; the wrong trust and plain text do not get through."""
    with started(tls) as one:
        address = "localhost:" + one.address.rpartition(":")[2]
        assert echoes(address, client(authority))
        assert not echoes(address, client(stranger))
        assert not echoes(address)
        assert echoes(address, client(authority))
        assert len(one.fake.processors) == 2


def test_mutual_tls(tls: Config, authority: Authority, stranger: Authority) -> None:
    """With a client CA only clients that it signed get through: none, or another's, does not."""
    with started(dataclasses.replace(tls, tls_client_ca=authority.certificate)) as one:
        address = "localhost:" + one.address.rpartition(":")[2]
        assert echoes(address, client(authority, signed_by=authority))
        assert not echoes(address, client(authority))
        assert not echoes(address, client(authority, signed_by=stranger))
        assert echoes(address, client(authority, signed_by=authority))
        assert len(one.fake.processors) == 2


@pytest.mark.parametrize("setting", ["tls_certificate", "tls_private_key", "tls_client_ca"])
@pytest.mark.parametrize("content", [None, b"", b"not PEM"], ids=["missing", "empty", "damaged"])
def test_a_tls_file_that_is_wrong(
    tls: Config, authority: Authority, tmp_path: Path, setting: str, content: bytes | None
) -> None:
    """The error names the setting and the file."""
    path = tmp_path / "wrong.pem"
    if content is not None:
        path.write_bytes(content)
    settings: dict[str, Any] = {"tls_client_ca": authority.certificate, setting: path}
    config = dataclasses.replace(tls, **settings)
    with pytest.raises(ConfigError, match=rf"{setting} .*wrong\.pem"):
        Started(config)


# -- the transport --------------------------------------------------------------------------------------------------


def test_http2_is_the_default(tmp_path: Path) -> None:
    """On a Unix socket and on loopback, where there is no TLS."""
    for listen in (None, "127.0.0.1:0"):
        with started(Config(data_dir=tmp_path, listen=listen)) as one:
            assert isinstance(one.server, http2.Http2Server)


def test_tls_is_served_by_aio(tls: Config, authority: Authority) -> None:
    """Whatever the transport: our own knows no TLS."""
    with started(tls) as one:
        assert isinstance(one.server, aio.AioServer)
        assert echoes("localhost:" + one.address.rpartition(":")[2], client(authority))


@pytest.mark.parametrize(
    ("wanted", "files", "got"),
    [(4096, 20_000, 4096), (4096, 4096, 2048), (4096, 1024, 512), (10, 1024, 10), (4096, -1, 4096), (4096, 1, 1)],
)
def test_connections_leave_files_for_the_journal(
    monkeypatch: pytest.MonkeyPatch, wanted: int, files: int, got: int
) -> None:
    """Half of the files that the process may open are not for connections."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert server._connections(wanted) == got


def test_the_limits_come_from_the_settings(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """max_streams and max_connections reach the transport."""
    seen: list[Endpoint] = []

    class Watched(http2.Http2Server):
        def __init__(self, endpoint: Endpoint, *rest: Any) -> None:
            seen.append(endpoint)
            super().__init__(endpoint, *rest)

    module, name = (http2, "Http2Server") if config.transport == "http2" else (aio, "AioServer")
    monkeypatch.setattr(module, name, Watched)
    chosen = dataclasses.replace(config, max_connections=7, max_streams=9)
    with started(chosen):
        pass
    assert (seen[0].max_connections, seen[0].max_streams) == (7, 9)
