"""envoy/examples/tls-downstream and mtls-downstream: HTTPS and HTTP/2 on the listener, certificates of clients."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from support.certificates import Authority
from support.exchanges import headers_of, present
from support.raw import Closed, Connection
from support.recipes import CHAT, Recipe
from support.stack import eventually

from extproc.history import bodies

CLIENT = "spiffe://example.org/team-a"
"""Of a certificate's alternative names Envoy tells those that are URIs."""

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """The recipe for TLS; its authority is in certs/ca.pem of the working directory."""
    yield from running("tls-downstream", tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def mtls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """The recipe for certificates of clients; their authority is in certs/clients-ca.pem."""
    yield from running("mtls-downstream", tmp_path_factory.mktemp("mtls"))


def running(name: str, directory: Path) -> Iterator[Recipe]:
    """A recipe with the files that it names."""
    certs = directory / "certs"
    certs.mkdir()
    Authority(certs, "ca").sign("server", days=30)
    Authority(certs, "clients-ca").sign("client", names=f"DNS:client.example, URI:{CLIENT}")
    with Recipe(name, directory) as recipe:
        yield recipe
        assert recipe.stop() == 0
        assert recipe.findings() == []


def client_of(recipe: Recipe, pair: Pair | None = None, *, http2: bool = True) -> httpx2.Client:
    """A client that trusts the recipe's authority only, with a certificate of its own or without."""
    context = ssl.create_default_context(cafile=recipe.directory / "certs" / "ca.pem")
    if pair is not None:
        context.load_cert_chain(*pair)
    return httpx2.Client(base_url=f"https://localhost:{recipe.port}", verify=context, http2=http2, timeout=150)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_a_client_gets_the_version_that_it_offers(tls: Recipe, version: str) -> None:
    """By ALPN; the record has the version, and of TLS what was agreed on."""
    with client_of(tls, http2=version == "HTTP/2") as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
    assert (answer.http_version, answer.status_code) == (version, 200)
    exchange = tls.settled(answer.headers["x-audit-id"])
    assert (exchange.outcome, exchange.cluster, exchange.route) == ("ok", "llm", "default")
    assert (exchange.upstream, exchange.attempts) == (answer.headers["x-upstream"], 1)
    assert (present(exchange.envoy).http_version, exchange.scheme) == (version, "https")
    agreed = present(present(exchange.envoy).tls)
    assert (agreed.version, agreed.peer_subject) == ("TLSv1.3", None)
    assert agreed.cipher


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_the_record_has_what_is_within(tls: Recipe, version: str) -> None:
    """Body and digest of a request that is streamed, and those of its answer; no byte is added or lost."""
    body = b'{"model": "demo", "max_tokens": 1, "messages": [{"role": "user", "content": "%b"}]}' % (b"ab " * 300_000)
    with client_of(tls, http2=version == "HTTP/2") as client:
        answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    exchange = tls.settled(answer.headers["x-audit-id"])
    assert present(exchange.request).sha256 == hashlib.sha256(body).hexdigest()
    assert bodies.whole(exchange, "response") == answer.content
    assert exchange.integrity == []


def test_plain_http_gets_no_answer(tls: Recipe) -> None:
    """Nor is it redirected: a key that was sent in the clear is known to others already. `up` says where to go."""
    assert tls.url == f"https://127.0.0.1:{tls.port}"
    with Connection.to(tls.port) as connection:
        connection.send(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk\r\n\r\n")
        with pytest.raises(Closed) as closed:
            connection.read_head()
    assert b"HTTP" not in closed.value.rest


def test_a_renewed_certificate_needs_no_restart(tls: Recipe) -> None:
    """New connections get it once its files are there; one that runs stays as it is."""
    certs = tls.directory / "certs"
    before = ssl.get_server_certificate(("localhost", tls.port))
    with client_of(tls) as client:
        assert client.get("/v1/models").status_code == 200
        (tls.directory / "new").mkdir()
        Authority(tls.directory / "new", "ca").sign("server", days=30)
        for name in ("ca.pem", "server.key", "server.pem"):
            (tls.directory / "new" / name).rename(certs / name)
        eventually(lambda: ssl.get_server_certificate(("localhost", tls.port)) != before, "the new certificate")
        assert client.get("/v1/models").status_code == 200
    assert ssl.get_server_certificate(("localhost", tls.port)) == (certs / "server.pem").read_text()
    with client_of(tls) as client:
        assert client.get("/v1/models").status_code == 200


# Certificates of clients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_the_record_names_the_peer(mtls: Recipe, version: str) -> None:
    """By its certificate. What a client says of itself under Envoy's header for it does not come through."""
    certs = mtls.directory / "certs"
    forged = {"x-forwarded-client-cert": "Subject=CN=admin"}
    with client_of(mtls, (certs / "client.pem", certs / "client.key"), http2=version == "HTTP/2") as client:
        answer = client.post("/v1/chat/completions", json=CHAT, headers=forged)
    assert (answer.http_version, answer.status_code) == (version, 200)
    exchange = mtls.settled(answer.headers["x-audit-id"])
    peer = present(present(exchange.envoy).tls)
    assert (peer.peer_subject, peer.peer_sans) == ("CN=client", [CLIENT])
    assert "x-forwarded-client-cert" not in headers_of(exchange.request)
    assert (exchange.outcome, exchange.upstream) == ("ok", answer.headers["x-upstream"])


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_others_are_refused(mtls: Recipe, tmp_path: Path, who: str, version: str) -> None:
    """Without a certificate, or with one of another authority: there is no request, and so no record."""
    pair = None if who == "nobody" else Authority(tmp_path, "other").sign("client")
    # Named after the port that was asked for: any free one.
    counter = f"listener.0.0.0.0_0.ssl.fail_verify_{'no_cert' if who == 'nobody' else 'error'}"
    refused = mtls.envoy_stat(counter)
    known = [record["type"] for record in mtls.records()]
    with client_of(mtls, pair, http2=version == "HTTP/2") as client, pytest.raises(httpx2.TransportError):
        client.post("/v1/chat/completions", json=CHAT)
    assert mtls.envoy_stat(counter) == refused + 1
    assert [record["type"] for record in mtls.records()] == known
