"""The curl command of `replay`: a real shell runs curl once, with what was recorded, and nothing else."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.exchanges import made

from extproc.cli import curl
from extproc.core import head
from extproc.core.record import encode
from extproc.core.redact import Redactor
from extproc.errors import ExtprocError
from extproc.replay.request import prepare

REDACTOR = Redactor(b"k" * 32)
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
ALWAYS = [b"--silent", b"--show-error", b"--no-buffer", b"--globoff", b"--path-as-is"]
OWN = [(b"accept", False), (b"user-agent", False), (b"expect", False), (b"content-type", True)]
"""What curl adds of its own, and whether only with a body."""


@dataclass
class Shell:
    """A directory with a `curl` that notes its arguments and its input, and with `base64`: all that there is to run."""

    directory: Path

    def run(self, script: str, **environ: str) -> tuple[list[bytes], bytes]:
        """Run a script; the arguments and the input of the one curl that it ran."""
        for file in self.directory.glob("run.*"):
            file.unlink()
        before = sorted(self.directory.iterdir())
        done = subprocess.run(
            ["/bin/sh"],
            input=script.encode(),
            cwd=self.directory,
            env={"PATH": str(self.directory / "bin"), "HOME": "/nowhere", **environ},
            capture_output=True,
            check=True,
            timeout=150,
        )
        assert (done.stdout, done.stderr) == (b"", b"")
        (arguments,) = self.directory.glob("run.*.arguments")
        data = arguments.with_suffix(".input").read_bytes()
        words = arguments.read_bytes().split(b"\0")[:-1]
        assert sorted(set(self.directory.iterdir()) - set(before)) == sorted(
            [arguments, arguments.with_suffix(".input")]
        )
        return words, data


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The recorder in the place of curl."""
    directory = tmp_path_factory.mktemp("shell")
    (directory / "bin").mkdir()
    recorder = directory / "bin" / "curl"
    recorder.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > run.$$.arguments\n/bin/cat > run.$$.input\n')
    recorder.chmod(0o755)
    (directory / "bin" / "base64").symlink_to("/usr/bin/base64")
    return Shell(directory)


def exchange(
    headers: Sequence[tuple[str, bytes]] = (),
    *,
    method: str = "POST",
    path: str = "/v1",
    authority: bytes = b"llm.test",
) -> dict[str, Any]:
    """An exchange as the journal has it: read by the core, and written and read as JSON."""
    pseudo = [(":method", method.encode("utf-8", "replace")), (":path", path.encode("utf-8", "replace"))]
    read = head.read([*pseudo, (":authority", authority), (":scheme", b"https"), *headers], REDACTOR)
    fields = {name: getattr(read, name) for name in ("method", "path", "authority", "scheme")}
    written: dict[str, Any] = json.loads(
        encode({"id": "1d", "started_at": "2025-11-21", "request": {"headers": read.fields}} | fields)
    )
    return written


def script(
    recorded: dict[str, Any], body: bytes = b"", to: str | None = "http://gpu:1", **credentials: list[str]
) -> str:
    """The command for it."""
    return curl.script(
        prepare(made(recorded), body, {name.replace("_", "-"): each for name, each in credentials.items()}), to
    )


pieces = st.sampled_from(
    [
        *(
            "`sh`",
            "`touch pwned`",
            "$(touch pwned)",
            ";touch pwned;",
            "|touch pwned",
            "&touch pwned&",
            "\ntouch pwned\n",
        ),
        *(
            "'",
            '"',
            "'\"'\"'",
            "'\\''",
            "\\",
            "$",
            "${IFS}",
            "!",
            "*",
            "~",
            "#",
            "%",
            "%s",
            "%b",
            "\\0047",
            "<<E",
            ">pwned",
        ),
        *(
            "@/etc/passwd",
            "-d",
            "--",
            "-",
            "=",
            ";",
            "{a,b}",
            "[1-9]",
            "漢",
            "\x1b",
            "\x85",
            "\u202e",
            "\x7f",
            "a",
            " ",
            "\t",
        ),
    ]
)
names = st.lists(st.one_of(pieces, st.text(max_size=2)), min_size=1, max_size=4).map("".join)
texts = st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=6).map("".join)
bytes_ = st.lists(st.one_of(pieces.map(str.encode), st.binary(max_size=3)), max_size=6).map(b"".join)
headers = st.lists(st.tuples(names.map(lambda name: "x-" + name), bytes_), max_size=4)


@given(
    headers=headers,
    method=texts.map(lambda text: text.replace("\0", "")),
    path=texts.map(lambda text: text.replace("\0", "")),
    authority=bytes_,
    body=bytes_,
)
@example(headers=[("x-`sh`", b"redacted:0123456789ab")], method="POST", path="/", authority=b"a", body=b"touch pwned")
@example(headers=[("x-'`sh`'", b"1")], method="POST", path="/", authority=b"a", body=b"touch pwned")
@example(
    headers=[("x-a", b"\xff'`touch pwned`")], method="P'`touch pwned`", path="/\x1b'`id`", authority=b"'", body=b""
)
@example(headers=[], method="GET", path="@evil.test/", authority=b"\n`touch pwned`", body=b"")
@example(headers=[], method="GET", path="/a#b?c", authority=b"", body=b"\0")
def test_a_shell_runs_curl_once_with_what_was_recorded(
    sh: Shell, *, headers: list[tuple[str, bytes]], method: str, path: str, authority: bytes, body: bytes
) -> None:
    """For any bytes in names, values, path, query, authority, method and body: these arguments, and nothing else."""
    recorded = exchange(headers, method=method, path=path, authority=authority)
    words, data = sh.run(script(recorded, body))
    assert data == body
    assert words[:5] == ALWAYS
    options, values = words[5::2], words[6::2]
    assert options[0] == b"--request"
    assert values[0] == (recorded["method"] or "POST").encode("utf-8", "surrogatepass")
    assert options[1] == b"--url"
    assert re.fullmatch(rb"http://gpu:1/[!-~]*", values[1])
    rest = list(zip(options[2:], values[2:], strict=True))
    assert_target(recorded["path"] or "/", values[1], rest)
    written = [value for option, value in rest if option == b"--header"]
    assert written == expected_headers(recorded["request"]["headers"], with_body=bool(body))
    assert [each for each in rest if each[0] == b"--data-binary"] == ([(b"--data-binary", b"@-")] if body else [])


def assert_target(path: str, url: bytes, rest: list[tuple[bytes, bytes]]) -> None:
    """The path as it was but for what no request line can hold: in the URL, or beside it."""
    beside = [value for option, value in rest if option == b"--request-target"]
    target = beside[0] if beside else url.removeprefix(b"http://gpu:1")
    assert not beside or url == b"http://gpu:1/"
    plain = [part for part in re.split(r"[^!-~]+", path) if part]
    assert [part.decode() for part in re.split(rb"(?:%[0-9A-F]{2})+", target) if part] == plain or "%" in path
    assert target.startswith(b"/") or beside


def expected_headers(recorded: Sequence[tuple[str, Any]], *, with_body: bool) -> list[bytes]:
    """What curl has to be given for them."""
    words = []
    for name, written in recorded:
        value = base64.b64decode(written["base64"]) if isinstance(written, dict) else written.encode()
        raw = name.encode("utf-8", "surrogatepass")
        if TOKEN.fullmatch(raw) and not re.search(rb"[\r\n\0]|redacted:[0-9a-f]{12}", value):
            words.append(raw + b": " + value if value.strip() else raw + b";")
    return words + [name + b":" for name, needs_body in OWN if with_body or not needs_body]


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "'", "\\", "`"])
def test_the_end_of_a_body_stays(sh: Shell, end: str) -> None:
    """Line feeds there are not lost in a substitution."""
    body = ("{'a': 1}" + end).encode()
    assert sh.run(script(exchange(), body))[1] == body


def test_a_nul_is_said() -> None:
    """No command line can carry it."""
    with pytest.raises(ExtprocError, match="1d: a NUL byte"):
        script(exchange() | {"method": "PO\0ST"})


# Credentials -----------------------------------------------------------------------------------------------

KEY = ("authorization", b"Bearer sk-canary")


def test_what_was_not_recorded_is_left_out_and_named(sh: Shell) -> None:
    """No variable whose name a client could choose, and no mark."""
    text = script(exchange([KEY, ("aws-secret-access-key", b"x")], path="/v1?a=1&key=S&b=2"))
    words, _ = sh.run(text, AWS_SECRET_ACCESS_KEY="the operator's own", AUTHORIZATION="the operator's own")
    assert "redacted:" not in text
    assert "# Not recorded and left out: 'aws-secret-access-key'" in text.splitlines()
    assert words[8] == b"http://gpu:1/v1?a=1&b=2"
    assert not any(b"operator" in word or b"authorization" in word for word in words)


@pytest.mark.parametrize(
    ("value", "sent"), [("sk-'$HOME", b"Bearer sk-'$HOME"), ("Basic dTpw", b"Basic dTpw"), ("a b", b"a b")]
)
def test_a_variable_holds_the_credential(sh: Shell, value: str, sent: bytes) -> None:
    """A token alone gets its scheme, as in every client's `api_key`."""
    text = script(exchange([KEY], path="/v1?key=S&a=1"), authorization=["TEST_KEY"], key=["TEST_KEY"])
    words, _ = sh.run(text, TEST_KEY=value)
    assert b"authorization: " + sent in words
    assert words[8] == b"http://gpu:1/v1?key=" + value.encode() + b"&a=1"


def test_a_variable_that_is_not_set_ends_the_script(sh: Shell) -> None:
    """Before curl runs."""
    text = script(exchange([KEY]), authorization=["TEST_KEY"])
    done = subprocess.run(
        ["/bin/sh"],
        check=False,
        input=text.encode(),
        env={"PATH": str(sh.directory / "bin")},
        cwd=sh.directory,
        capture_output=True,
    )
    assert done.returncode != 0
    assert b"TEST_KEY: is not set" in done.stderr


# Where to --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_without_a_server_there_is_a_placeholder(sh: Shell, scheme: str) -> None:
    """Never the server that the client used: that is production. What was used is said, scheme and all."""
    text = script(exchange() | {"scheme": scheme}, to=None)
    words, _ = sh.run(text)
    assert words[8] == f"{scheme}://replace-me.invalid/v1".encode()
    assert "'llm.test'" in text.splitlines()[1]
    assert not any(b"llm.test" in word for word in words)


@pytest.mark.parametrize("scheme", ["ftp", "'; id", None])
def test_no_other_scheme_is_taken(sh: Shell, scheme: str | None) -> None:
    """A client can write anything there."""
    words, _ = sh.run(script(exchange() | {"scheme": scheme}, to=None))
    assert words[8] == b"http://replace-me.invalid/v1"


def test_a_path_never_becomes_part_of_the_host(sh: Shell) -> None:
    """`@evil.test/` behind `http://gpu:1` would be another server, which would get the credential."""
    words, _ = sh.run(script(exchange(path="@evil.test/?a=1")))
    assert words[7:11] == [b"--url", b"http://gpu:1/", b"--request-target", b"@evil.test/?a=1"]
