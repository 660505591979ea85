"""envoy/examples/remote-api: a remote API over TLS, with a key that nobody sees."""

from __future__ import annotations

import dataclasses
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Authority
from support.commands import run
from support.exchanges import headers_of, present
from support.raw import Connection, Head, RawBackend
from support.recipes import EXAMPLES, Answer, Recipe
from support.stack import eventually

from extproc.core.records import Routing

CANARY = "sk-canary-5f0c2a9d71"
SECOND = "sk-second-0b8e63cc42"
CLIENTS_KEY = "sk-of-the-client-9f1"


@dataclasses.dataclass
class Remote:
    """The provider: a TLS server, and what it was sent."""

    backend: RawBackend
    authority: Authority
    heads: list[Head] = dataclasses.field(default_factory=list)

    def answer(self, connection: Connection, head: Head) -> None:
        """The script of every path."""
        connection.finish(head)
        self.heads.append(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

    def named(self, text: str, *, sni: str = "localhost", authority: Path | None = None) -> str:
        """The text of overlay.yaml with this server in the place of api.example.com."""
        text = text.replace("address: api.example.com, port_value: 443", f"address: localhost, port_value: {self.port}")
        text = text.replace("sni: api.example.com", f"sni: {sni}")
        return text.replace("/etc/ssl/certs/ca-certificates.crt", str(authority or self.authority.certificate))

    @property
    def port(self) -> int:
        return self.backend.port


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    """The provider's server for localhost."""
    directory = tmp_path_factory.mktemp("authority")
    authority = Authority(directory, "authority")
    both = directory / "both.pem"
    both.write_text("".join(path.read_text() for path in authority.sign("server")))
    with RawBackend(both) as backend:
        remote = Remote(backend, authority)
        backend.otherwise = remote.answer
        yield remote
        assert backend.errors == []


def with_key(directory: Path, key: str = CANARY) -> Path:
    """The working directory with the file of the key in it."""
    (directory / "keys").mkdir(parents=True)
    (directory / "keys" / "remote-api").write_text(key)
    return directory


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, remote: Remote) -> Iterator[Recipe]:
    """The recipe with that server in the place of the provider's."""
    directory = with_key(tmp_path_factory.mktemp("remote"))
    with Recipe("remote-api", directory, edit=lambda _, text: remote.named(text)) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def ask(recipe: Recipe, model: str = "gpt-4o") -> Answer:
    """A short chat completion of a client with a key of its own."""
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"authorization": f"Bearer {CLIENTS_KEY}", "cookie": "a=b"}
    return recipe.client().ask(body=body, **headers)


def test_the_remote_gets_its_key_and_its_name(recipe: Recipe, remote: Remote) -> None:
    """The key of the file in the place of the client's; its own name in SNI and host; nothing of who the client is."""
    answer = ask(recipe)
    assert (answer.status, answer.body) == (200, b"{}")
    head = remote.heads[-1]
    assert [value for name, value in head.headers if name == "authorization"] == [f"Bearer {CANARY}"]
    assert (head.get("host"), remote.backend.server_names[-1]) == ("localhost", "localhost")
    assert {"cookie", "x-forwarded-for", "x-real-ip", "x-envoy-external-address"}.isdisjoint(dict(head.headers))


def test_the_record_says_where_it_went(recipe: Recipe, remote: Remote) -> None:
    """Cluster, route and address of the remote; the mark in the record is that of the client's key."""
    first, second = recipe.settled(ask(recipe)), recipe.settled(ask(recipe, "demo"))
    assert (first.cluster, first.route, first.outcome) == ("remote", "remote", "ok")
    assert (first.upstream, first.attempts) == (f"127.0.0.1:{remote.port}", 1)
    assert first.routing == Routing(by="body", set={"x-model": "gpt-4o"})
    marks = [headers_of(each.request)["authorization"] for each in (first, second)]
    assert marks[0] == marks[1]
    assert marks[0].startswith("redacted:")


def test_other_models_stay_at_home(recipe: Recipe, remote: Remote) -> None:
    """They go to the servers of one's own."""
    before = len(remote.heads)
    answer = ask(recipe, "demo")
    exchange = recipe.settled(answer)
    assert (answer.status, exchange.cluster, exchange.route) == (200, "llm", "default")
    assert len(remote.heads) == before


def test_a_new_key_is_used_at_once(recipe: Recipe, remote: Remote) -> None:
    """A file that is renamed into the place of the old one needs no restart."""
    keys = recipe.directory / "keys"
    (keys / "new").write_text(f"{SECOND}\n")  # an end of line is none of the key
    (keys / "new").rename(keys / "remote-api")

    def sent() -> bool:
        assert ask(recipe).status == 200
        return remote.heads[-1].get("authorization") == f"Bearer {SECOND}"

    eventually(sent, "the second key")


def test_the_key_is_nowhere(recipe: Recipe, remote: Remote) -> None:
    """Not in the data directory with Envoy's log and configuration, nor on stderr, nor in Envoy's admin interface."""
    assert recipe.settled(ask(recipe)).outcome == "ok"
    dump = envoy_admin(recipe, "/config_dump?include_eds")
    assert "remote-api-key" in dump
    written = {str(path): path.read_bytes() for path in recipe.data_dir.rglob("*") if path.is_file()}
    assert any(path.endswith("envoy.log") for path in written)
    assert any(path.endswith("secrets.yaml") for path in written)
    written |= {"stderr": recipe.stderr().encode(), "config_dump": dump.encode()}
    for key in (CANARY, SECOND, CLIENTS_KEY):
        assert [path for path, data in written.items() if key.encode() in data] == []


def envoy_admin(recipe: Recipe, path: str) -> str:
    """What Envoy's admin interface says."""
    with urllib.request.urlopen(recipe.envoy_admin + path) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_server_that_is_not_the_remote(tmp_path: Path, remote: Remote, wrong: str) -> None:
    """A certificate for another name, or of another authority: the request is refused, and the key is not sent."""
    other = Authority(tmp_path, "other").certificate if wrong == "authority" else None
    sni = "api.example.com" if wrong == "name" else "localhost"
    before = len(remote.heads)
    with Recipe(
        "remote-api",
        with_key(tmp_path / "work"),
        edit=lambda _, text: remote.named(text, sni=sni, authority=other),
    ) as recipe:
        answer = ask(recipe)
        assert (answer.status, answer.json()["error"]["code"]) == (503, "upstream_connect_failure")
        exchange = recipe.settled(answer)
        assert (exchange.outcome, exchange.response_flags) == ("upstream_connect_fail", ["UF"])
        assert "CERTIFICATE_VERIFY_FAILED" in present(present(exchange.envoy).upstream_failure)
        assert len(remote.heads) == before
        assert recipe.stop() == 0
        assert recipe.findings() == []


def test_it_starts_without_the_remote(tmp_path: Path) -> None:
    """As it is shipped: the name does not resolve, other models are served, and this one is a clear 503."""
    with Recipe("remote-api", with_key(tmp_path)) as recipe:
        assert ask(recipe, "demo").status == 200
        answer = ask(recipe)
        assert answer.status == 503
        assert recipe.settled(answer).outcome in {"local_reply", "upstream_connect_fail"}
        assert recipe.stop() == 0
        assert recipe.findings() == []


@pytest.mark.parametrize(
    ("key", "said"),
    [(None, "keys/remote-api cannot be read: No such file or directory"), ("\n", "keys/remote-api is empty")],
)
def test_check_names_the_file_of_a_missing_key(tmp_path: Path, key: str | None, said: str) -> None:
    """With the place where it is named; and the server that is only an example does not resolve."""
    if key is not None:
        with_key(tmp_path, key)
    done = run("check", "--envoy-dir", EXAMPLES / "remote-api", cwd=tmp_path)
    unknown, line = done.stdout.decode().splitlines()
    assert "warning: the name api.example.com does not resolve" in unknown
    assert done.returncode == 1
    assert line.startswith(f"{EXAMPLES / 'remote-api' / 'secrets.yaml'}:7:24: ")
    assert said in line


def test_check_takes_it(tmp_path: Path) -> None:
    """It warns of nothing but the server that is only an example, and never says the key."""
    done = run("check", "--envoy-dir", EXAMPLES / "remote-api", cwd=with_key(tmp_path))
    (unknown,) = done.stdout.splitlines()
    assert (done.returncode, b"warning: the name api.example.com" in unknown) == (0, True)
