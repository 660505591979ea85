"""`extproc replay`: the recorded bytes once more, by us or by a real curl in a real shell."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from support.certificates import Authority
from support.commands import invoke, on_terminal, run
from support.http_servers import Quiet, serving
from support.recorded import ANSWER, CHAT, ESCAPE, Recording


@dataclass
class Received:
    """A request as a server got it."""

    method: str
    path: str
    headers: list[tuple[str, bytes]]
    body: bytes

    def values(self, name: str) -> list[bytes]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]


@dataclass
class Backend:
    """A server that keeps what it gets, but for questions whether it is alive. `answer` is what it says; `die`: it
    hangs up in the middle of that; `dead`: afterwards it fails."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    status: int = 200
    reason: str | None = None
    answer: bytes = b'{"ok":true}'
    die: bool = False
    dead: bool = False


AT_ONCE = ("--settle", "0")
"""These servers live or die at once."""
KNOWN_GOOD = b'{"model": "llama-3", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}'
"""What replay asks where the journal has nothing that was served."""


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A server on a free port."""
    state = Backend()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path in ("/health", "/metrics") or body == KNOWN_GOOD:
                self._alive()
                return
            headers = [(name.lower(), value.encode("latin-1")) for name, value in self.headers.items()]
            state.received.append(Received(self.command, self.path, headers, body))
            self.send_response(state.status, state.reason)
            self.send_header("content-length", str(len(state.answer) + (1 if state.die else 0)))
            self.end_headers()
            self.wfile.write(state.answer)

        def _alive(self) -> None:
            self.send_response(503 if state.dead and state.received else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        do_POST = do_GET = do_PUT = do_DELETE = _any  # noqa: N815 - the names that http.server looks for

    with serving(Handler) as port:
        state.url = f"http://127.0.0.1:{port}"
        yield state


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a journal is recorded."""
    return tmp_path / "data"


BODIES = {
    "chat": CHAT,
    "empty": b"",
    "every byte": bytes(range(256)) * 20,
    "quotes": b"""{"it's": "$HOME `id` \\\\n %s %% !! \\"quoted\\"", 'x': $(id)}""",
    "line ends": b"\n\na\r\nb\n\n",
    "ends in a line end": b"line\n",
    "the here-document's own end": b"END_OF_BODY\nEND_OF_BODY",
    "unicode": "漢字 räksmörgås 👩‍🔬".encode(),
    "escapes": ESCAPE.encode(),
    "looks like an option or a file": b"@/etc/passwd",
    "begins with a dash": b"-n -e",
    "NUL": b"a\0b",
    "large": b"0123456789abcdef" * 40_000,
    "spooled text": b'{"p": "' + b"x" * 200_000 + b'"}',
}
METHOD_PATH = [
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models?a=%20b&c[]={d}"),
    ("PUT", "/a/../b//c;d=e"),
    ("DELETE", "/it's/$HOME/`id`"),
]
HEADERS: list[tuple[str, str | bytes]] = [
    ("content-type", "application/json"),
    ("x-quotes", """it's "quoted" $HOME `id` \\n %s"""),
    ("x-empty", ""),
    ("x-bytes", b"caf\xe9 \xff"),
    ("x-twice", "one"),
    ("x-twice", "two"),
    ("user-agent", "client/1.0"),
]


def assert_same(got: Received, body: bytes, method: str = "POST", path: str = "/v1/chat/completions") -> None:
    """What was sent again is what was recorded."""
    assert (got.method, got.path) == (method, path)
    assert got.body == body
    for name in {name for name, _ in HEADERS}:
        expected = [value.encode() if isinstance(value, str) else value for key, value in HEADERS if key == name]
        assert got.values(name) == expected, name


def by_shell(script: str, cwd: Path, env: dict[str, str] | None = None) -> None:
    """Run a script as somebody would who has only sh, curl and base64."""
    subprocess.run(["/bin/sh", "-e"], input=script.encode(), cwd=cwd, check=True, timeout=150, env=env)


# Sending ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BODIES)
def test_to_sends_the_exact_bytes(data: Path, backend: Backend, name: str) -> None:
    """Whatever they are, with the recorded headers."""
    with Recording(data) as recording:
        id = recording.add(BODIES[name], headers=HEADERS)
    result = invoke("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data)
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == b'{"ok":true}'
    assert result.stderr.startswith("HTTP/1.0 200 OK\nok 200, recorded ok; the target is alive")
    (got,) = backend.received
    assert_same(got, BODIES[name])
    assert got.values("content-length") == [str(len(BODIES[name])).encode()]


def test_to_sends_over_tls(data: Path, tmp_path: Path) -> None:
    """To a server whose certificate is good; one that nobody signed gets nothing, least of all a credential."""
    received = []

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    authority = Authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("server"))
    with Recording(data) as recording:
        id = recording.add(scheme="https")
    with serving(Handler, context) as port:
        arguments = ("replay", id, *AT_ONCE, "--to", f"https://localhost:{port}", "--data-dir", data)
        trusted = run(*arguments, cwd=data, env={"SSL_CERT_FILE": str(authority.certificate)})
        other = run(*arguments, cwd=data)
    assert (trusted.returncode, trusted.stdout) == (0, b"{}"), trusted.stderr
    assert other.returncode == 1
    assert b"certificate verify failed" in other.stderr
    assert received[0] == CHAT


@pytest.mark.parametrize(("method", "path"), METHOD_PATH)
def test_to_sends_the_recorded_method_and_path(data: Path, backend: Backend, method: str, path: str) -> None:
    """Nothing about a path is tidied up."""
    with Recording(data) as recording:
        id = recording.add(CHAT, method=method, path=path, headers=HEADERS)
    assert invoke("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data).exit_code == 0
    assert_same(backend.received[0], CHAT, method, path)


CONNECTION: list[tuple[str, str | bytes]] = [
    ("connection", "close, x-y"),
    ("transfer-encoding", "chunked"),
    ("host", "elsewhere"),
    ("expect", "100-continue"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-envoy-internal", "true"),
    ("x-request-id", "r1"),
    ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
]


@pytest.mark.parametrize("way", ["--to", "--curl"])
def test_what_belongs_to_the_connection_is_left_out(data: Path, backend: Backend, way: str) -> None:
    """And what Envoy had added."""
    with Recording(data) as recording:
        id = recording.add(headers=[*HEADERS, *CONNECTION])
    result = invoke(
        "replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data, *(["--curl"] if way == "--curl" else [])
    )
    if way == "--curl":
        by_shell(result.stdout, data)
    (got,) = backend.received
    assert_same(got, CHAT)
    assert got.values("host") == [backend.url.removeprefix("http://").encode()]
    names = {name for name, _ in CONNECTION} - {"host"}
    assert not [value for name, value in got.headers if name in names]


SECRETS: list[tuple[str, str | bytes]] = [("authorization", "Bearer sk-1"), ("x-api-key", "k2")]


def test_credentials_come_from_flags_and_files(data: Path, backend: Backend, tmp_path: Path) -> None:
    """The recorded marks are never sent, and a given header takes the place of a recorded one."""
    (tmp_path / "keys").write_text("# mine\n\nAuthorization: Bearer sk-new\nx-more: a: b\n")
    with Recording(data) as recording:
        id = recording.add(headers=[*HEADERS, *SECRETS])
    result = invoke(
        *("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data),
        *("--header-file", tmp_path / "keys", "-H", "User-Agent: other", "--no-credentials"),
    )
    assert result.exit_code == 0, result.stderr
    (got,) = backend.received
    assert got.values("authorization") == [b"Bearer sk-new"]
    assert got.values("x-more") == [b"a: b"]
    assert got.values("user-agent") == [b"other"]
    assert got.values("x-api-key") == []
    assert not any(b"redacted" in value for _, value in got.headers)


def test_a_missing_credential_is_told_before_anything_is_sent(data: Path, backend: Backend) -> None:
    """Exit 2, with each name and what to do. One that a header gives is not missing."""
    with Recording(data) as recording:
        id = recording.add(path="/v1/models?key=s3cret", headers=[*HEADERS, *SECRETS])
    result = invoke("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data, "-H", "X-Api-Key: k")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "extproc: nothing was sent: authorization, key was not recorded; --credential NAME=ENV puts it back from a "
        "variable, --no-credentials sends the request without it\n"
    )
    assert backend.received == []


def test_credentials_may_be_left_out(data: Path, backend: Backend) -> None:
    """Their headers and parameters are, and nothing else is; no mark is sent."""
    with Recording(data) as recording:
        id = recording.add(path="/v1/models?key=s3cret&a=1&api_key=k;b=2#c", headers=[*HEADERS, *SECRETS])
    result = invoke("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data, "--no-credentials")
    assert result.exit_code == 0, result.stderr
    (got,) = backend.received
    assert got.path == "/v1/models?a=1;b=2#c"
    assert not {name for name, _ in SECRETS} & {name for name, _ in got.headers}


def test_credentials_come_from_variables(data: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a header and of a query parameter, by its name however it was written."""
    monkeypatch.setenv("TEST_KEY", "sk-test")
    monkeypatch.setenv("TEST_QUERY", "a%20b")
    with Recording(data) as recording:
        id = recording.add(path="/v1/models?a=1&API_%6BEY=s3cret&b", headers=[*HEADERS, *SECRETS])
    result = invoke(
        *("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data, "--credential", "Authorization=TEST_KEY"),
        *("--credential", "x-api-key=TEST_KEY", "--credential", "api_key=TEST_QUERY"),
    )
    assert result.exit_code == 0, result.stderr
    (got,) = backend.received
    assert got.path == "/v1/models?a=1&API_%6BEY=a%20b&b"
    assert (got.values("authorization"), got.values("x-api-key")) == ([b"Bearer sk-test"], [b"sk-test"])


@pytest.mark.parametrize(
    ("credential", "value", "message"),
    [
        ("authorization=TEST_KEY", None, "the variable TEST_KEY is not set"),
        ("authorization=TEST_KEY", "", "the variable TEST_KEY is not set"),
        ("authorization=TEST_KEY", "sk-1\nx: y", "the variable TEST_KEY holds a line feed or a NUL"),
        ("key=TEST_KEY", "sk-1&b", "the variable TEST_KEY has to be percent-encoded to stand in a URL"),
        ("key=TEST_KEY", "sk-1 ", "the variable TEST_KEY has to be percent-encoded to stand in a URL"),
        ("x-other=TEST_KEY", "sk-1", "--credential x-other: the recorded request has no such credential; it has auth"),
        ("authorization=sk-1.secret", "", "expected NAME=ENV"),
        ("sk-1", "", "expected NAME=ENV"),
        ("=sk", "", "expected NAME=ENV"),
    ],
)
def test_a_wrong_credential_is_told_before_anything_is_sent(
    data: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch, *, credential: str, value: str | None, message: str
) -> None:
    """Exit 2; what may be a credential is not repeated."""
    if value is not None:
        monkeypatch.setenv("TEST_KEY", value)
    with Recording(data) as recording:
        id = recording.add(path="/v1/models?key=s3cret", headers=SECRETS[:1])
    result = invoke(
        *(
            "replay",
            id,
            *AT_ONCE,
            "--to",
            backend.url,
            "--data-dir",
            data,
            "--no-credentials",
            "--credential",
            credential,
        )
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert "sk-1" not in result.output
    assert backend.received == []


def test_several_credentials_of_one_name_are_given_in_their_order(
    data: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same one twice is one."""
    monkeypatch.setenv("FIRST", "1")
    monkeypatch.setenv("SECOND", "2")
    with Recording(data) as recording:
        id = recording.add(path="/v1/models?key=a&key=b&key=a", headers=())
    arguments = ("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data, "--credential", "key=FIRST")
    assert invoke(*arguments).exit_code == 2
    assert invoke(*arguments, "--credential", "key=SECOND").exit_code == 0
    assert [got.path for got in backend.received] == ["/v1/models?key=1&key=2&key=1"]


def test_a_wrong_header_is_not_repeated_in_the_message(data: Path, tmp_path: Path) -> None:
    """It is most likely a credential. Exit 2, with the file's line."""
    (tmp_path / "keys").write_text("# mine\nsk-very-secret\n")
    with Recording(data) as recording:
        id = recording.add()
    for arguments in (["--header-file", tmp_path / "keys"], ["--header", "sk-very-secret"]):
        result = invoke("replay", id, *AT_ONCE, "--to", "http://127.0.0.1:1", "--data-dir", data, *arguments)
        assert result.exit_code == 2
        assert "expected 'Name: value'" in result.stderr
        assert "sk-very-secret" not in result.output
    assert (
        f"{tmp_path / 'keys'}:2"
        in invoke("replay", id, *AT_ONCE, "--curl", "--data-dir", data, "--header-file", tmp_path / "keys").stderr
    )


def test_an_error_status_is_exit_1(data: Path, backend: Backend) -> None:
    """With the answer on stdout all the same."""
    backend.status, backend.answer = 500, b"CUDA error"
    with Recording(data) as recording:
        id = recording.add()
    result = invoke("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data)
    assert (result.exit_code, result.stdout) == (1, "CUDA error")
    assert "500 Internal Server Error" in result.stderr


def test_a_backend_that_dies_is_exit_1_and_said(data: Path, backend: Backend) -> None:
    """What had come of the answer is on stdout."""
    backend.die = True
    with Recording(data) as recording:
        id = recording.add()
    result = invoke("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data)
    assert (result.exit_code, result.stdout) == (1, '{"ok":true}')
    assert "the connection broke after 11 bytes of the answer" in result.stderr


def test_a_server_that_is_not_there_is_exit_1(data: Path) -> None:
    """One line that names it."""
    with Recording(data) as recording:
        id = recording.add()
    result = invoke("replay", id, *AT_ONCE, "--to", "http://127.0.0.1:1", "--data-dir", data)
    assert result.exit_code == 1
    assert result.stderr.startswith("extproc: http://127.0.0.1:1: cannot connect: ")
    assert len(result.stderr.splitlines()) == 1


def test_the_answer_is_harmless_on_a_terminal_and_exact_in_a_pipe(data: Path, backend: Backend) -> None:
    """A backend's bytes are data as much as a client's."""
    backend.answer, backend.reason = ESCAPE.encode() + b"\xff\nnext line", "Fine \x1b[2J\x9b1m"
    with Recording(data) as recording:
        id = recording.add()
    arguments = ("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data)
    assert run(*arguments, cwd=data).stdout == backend.answer
    seen = on_terminal(*arguments, cwd=data)
    assert b"\x1b" not in seen
    assert b"200 Fine \\x1b[2J\\x9b1m" in seen
    assert b"\\x1b]0;owned" in seen
    assert b"\r\nnext line" in seen


def test_a_request_cut_off_is_sent_as_far_as_it_is_known(data: Path, backend: Backend) -> None:
    """With a word of warning."""
    with Recording(data) as recording:
        id = recording.add(answer=None, finished=False)
        result = invoke("replay", id, *AT_ONCE, "--to", backend.url, "--data-dir", data)
    assert result.exit_code == 0
    assert f"the recorded body is not the whole one: {len(CHAT)} bytes had come" in result.stderr
    assert backend.received[0].body == CHAT


def test_an_exchange_without_a_request_cannot_be_replayed(data: Path) -> None:
    """Exit 1."""
    with Recording(data) as recording:
        id = recording.add(None)
    result = invoke("replay", id, *AT_ONCE, "--curl", "--data-dir", data)
    assert (result.exit_code, result.stderr) == (1, f"extproc: {id}: its request was not recorded\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--to", "gpu:8000"],
        ["--to", "http://h/v1"],
        ["--to", "ftp://h"],
        ["--to", "http://u:p@h"],
        ["--to", "http://h:x"],
    ],
)
def test_wrong_usage_is_exit_2(data: Path, arguments: list[str]) -> None:
    """What to do, and a server that is one."""
    data.mkdir()
    assert invoke("replay", "x", "--data-dir", data, *arguments).exit_code == 2


# curl ------------------------------------------------------------------------------------------------------

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here to run the command with")


@needs_curl
@pytest.mark.parametrize("name", BODIES)
def test_curl_sends_the_exact_bytes(data: Path, backend: Backend, name: str) -> None:
    """The printed command, run by a plain POSIX shell, sends the recorded bytes and headers."""
    with Recording(data) as recording:
        id = recording.add(BODIES[name], headers=HEADERS)
    result = invoke("replay", id, *AT_ONCE, "--curl", "--to", backend.url, "--data-dir", data)
    assert result.exit_code == 0, result.stderr
    by_shell(result.stdout, data)
    assert_same(backend.received[0], BODIES[name])


@needs_curl
@pytest.mark.parametrize(("method", "path"), METHOD_PATH)
def test_curl_sends_the_recorded_method_and_path(data: Path, backend: Backend, method: str, path: str) -> None:
    """Nothing about a path is tidied up, and the shell runs nothing in it."""
    with Recording(data) as recording:
        id = recording.add(CHAT, method=method, path=path, headers=HEADERS)
    by_shell(invoke("replay", id, *AT_ONCE, "--curl", "--to", backend.url, "--data-dir", data).stdout, data)
    assert_same(backend.received[0], CHAT, method, path)


@needs_curl
def test_curl_sends_no_header_of_its_own(data: Path, backend: Backend) -> None:
    """Only host and content-length are added."""
    with Recording(data) as recording:
        id = recording.add(CHAT, headers=[("x-only", "1")])
    by_shell(invoke("replay", id, *AT_ONCE, "--curl", "--to", backend.url, "--data-dir", data).stdout, data)
    assert sorted(name for name, _ in backend.received[0].headers) == ["content-length", "host", "x-only"]


@needs_curl
def test_curl_takes_credentials_from_variables(data: Path, backend: Backend) -> None:
    """Those that the command line named; the others are left out, and that is said."""
    with Recording(data) as recording:
        id = recording.add(headers=[*HEADERS, *SECRETS])
    result = invoke(
        *(
            "replay",
            id,
            *AT_ONCE,
            "--curl",
            "--to",
            backend.url,
            "--data-dir",
            data,
            "--credential",
            "authorization=TEST_KEY",
        )
    )
    assert result.stderr == "not recorded and left out: x-api-key (--credential NAME=ENV puts it back)\n"
    by_shell(result.stdout, data, {"PATH": "/usr/bin:/bin:/usr/local/bin", "TEST_KEY": "Bearer sk-'new'"})
    (got,) = backend.received
    assert got.values("authorization") == [b"Bearer sk-'new'"]
    assert got.values("x-api-key") == []


@needs_curl
def test_curl_takes_given_headers_in(data: Path, backend: Backend) -> None:
    """Then the command is complete."""
    with Recording(data) as recording:
        id = recording.add(headers=[*HEADERS, *SECRETS])
    result = invoke(
        "replay",
        id,
        "--curl",
        "--to",
        backend.url,
        "--data-dir",
        data,
        "-H",
        "Authorization: it's",
        "-H",
        "X-Api-Key: k",
    )
    by_shell(result.stdout, data)
    assert backend.received[0].values("authorization") == [b"it's"]
    assert backend.received[0].values("x-api-key") == [b"k"]


def test_without_to_the_command_is_for_no_server(data: Path) -> None:
    """A placeholder stands in its place, not the host that the client used, which is production."""
    with Recording(data) as recording:
        id = recording.add(path="/v1/models?key=s3cret")
    script = invoke("replay", id, *AT_ONCE, "--curl", "--data-dir", data).stdout
    assert "--url 'http://replace-me.invalid/v1/models'" in script
    assert "redacted:" not in script


@pytest.mark.parametrize("where", ["path", "header", "body", "method"])
def test_the_command_itself_is_harmless_on_a_terminal(data: Path, where: str) -> None:
    """Printable characters only, whatever was recorded."""
    hostile = ESCAPE.replace("\x00", "")
    with Recording(data) as recording:
        id = recording.add(
            hostile.encode() if where == "body" else CHAT,
            path="/" + (hostile if where == "path" else ""),
            headers=[("x-evil", hostile if where == "header" else "")],
            method="POST" + (hostile if where == "method" else ""),
        )
    script = invoke("replay", id, *AT_ONCE, "--curl", "--data-dir", data).stdout
    assert all(line.isprintable() for line in script.split("\n"))
    subprocess.run(["/bin/sh", "-n"], input=script.encode(), check=True, timeout=150)
