"""What is asked of an object store, and what its errors become."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from support import buckets
from support.http_servers import Quiet, serving, trickling

from extproc.errors import BucketError, ConfigError, Conflict
from extproc.fleet.bucket import Bucket, directory_url


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """A directory."""
    return Bucket.open(directory_url(tmp_path))


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing is looked for on the network."""
    for name, value in buckets.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_an_object_is_made_once(bucket: Bucket) -> None:
    """Again with the same content it is there already; with another it is a conflict, and stays as it was."""
    assert bucket.create("a/b", b"one")
    assert not bucket.create("a/b", b"one")
    with pytest.raises(Conflict, match="nothing is overwritten"):
        bucket.create("a/b", b"two")
    assert bucket.read("a/b") == b"one"


def test_what_there_is_can_be_listed_and_read_in_parts(bucket: Bucket) -> None:
    """Objects with their sizes, folders by their names, the start of an object, and whether there is one."""
    for path in ("x/dt=1/a", "x/dt=2/b", "y/c"):
        bucket.create(path, path.encode())
    assert {(each.path, each.size) for each in bucket.objects("x")} == {("x/dt=1/a", 8), ("x/dt=2/b", 8)}
    assert bucket.folders("x") == ["dt=1", "dt=2"]
    assert bucket.start_of("x/dt=1/a", 4) == b"x/dt"
    assert (bucket.has("y/c"), bucket.has("y/d")) == (True, False)


def test_what_is_deleted_twice_is_gone(bucket: Bucket) -> None:
    """The second time is no error; to read it is one that names it."""
    bucket.create("a", b"one")
    bucket.delete("a")
    bucket.delete("a")
    with pytest.raises(BucketError, match=r"^a: "):
        bucket.read("a")


@pytest.mark.parametrize("url", ["ftp://a/b", "recordings", "http://bucket"])
def test_what_is_no_bucket_is_refused(url: str) -> None:
    """With the forms that there are."""
    with pytest.raises(ConfigError, match="expected s3://BUCKET/PREFIX"):
        Bucket.open(url)


XML = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>%b</Code><Message>%b</Message>'
    b"<RequestId>%d</RequestId><HostId>abc</HostId></Error>"
)


@pytest.mark.parametrize(
    ("status", "code", "message", "said"),
    [
        (403, b"AccessDenied", b"Access Denied", "403 Forbidden: AccessDenied: Access Denied"),
        (403, b"QuotaExceeded", b"The quota is reached", "403 Forbidden: QuotaExceeded: The quota is reached"),
        (403, b"RequestTimeTooSkewed", b"Too far", "403 Forbidden: RequestTimeTooSkewed: Too far"),
        (404, b"NoSuchBucket", b"No such bucket", "404 Not Found: NoSuchBucket: No such bucket"),
        (503, b"SlowDown", b"Reduce your rate", "503 Service Unavailable: SlowDown: Reduce your rate"),
        (507, b"", b"", "507 Insufficient Storage"),
    ],
)
@pytest.mark.usefixtures("credentials")
def test_what_a_store_refuses_is_one_line_and_the_same_each_time(
    status: int, code: bytes, message: bytes, said: str
) -> None:
    """Status, code and message of the store; neither the time that it took nor a request's own id."""
    answered = 0

    class Refusing(Quiet, BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            nonlocal answered
            answered += 1
            self.rfile.read(int(self.headers["content-length"]))
            body = XML % (code, message, answered) if code else b""
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Refusing) as port:
        refusing = Bucket.open("s3://tests/part", f"http://127.0.0.1:{port}", retries=1)
        lines = [_refused(refusing) for _ in range(2)]
    assert lines[0] == lines[1]
    assert lines[0].startswith("v1/a: ")
    assert f"non-2xx status code: {said}" in lines[0]
    assert answered == (4 if status >= 500 else 2)


@pytest.mark.usefixtures("credentials")
def test_a_store_that_is_away_is_the_same_line_each_time() -> None:
    """However long it was tried."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = Bucket.open("s3://tests/part", f"http://127.0.0.1:{nobody.getsockname()[1]}", retries=1)
        lines = {_refused(away) for _ in range(2)}
    assert len(lines) == 1
    assert lines.pop().endswith("HTTP error: error sending request")


LONG = b"HTTP/1.1 200 OK\r\netag: a\r\nlast-modified: Fri, 20 Nov 2026 03:00:00 GMT\r\ncontent-length: 100000\r\n\r\n"
PART = LONG.replace(b"200 OK", b"206 Part\r\ncontent-range: bytes 0-99999/100000")


Ask = Callable[[Bucket], object]
ASKED: dict[str, tuple[Ask, bytes]] = {
    "create": (lambda bucket: bucket.create("a", b"data"), b""),
    "replace": (lambda bucket: bucket.replace("a", b"data", "version"), b""),
    "read": (lambda bucket: bucket.read("a"), b""),
    "read, the content": (lambda bucket: bucket.read("a"), LONG),
    "start_of, the content": (lambda bucket: bucket.start_of("a", 100_000), PART),
    "has": (lambda bucket: bucket.has("a"), b""),
    "objects, the content": (lambda bucket: list(bucket.objects("v1")), LONG),
    "folders, the content": (lambda bucket: bucket.folders("v1"), LONG),
    "delete": (lambda bucket: bucket.delete("a"), b""),
}


@pytest.mark.parametrize(("ask", "after"), ASKED.values(), ids=ASKED)
@pytest.mark.usefixtures("credentials")
def test_a_store_that_answers_a_byte_at_a_time_is_given_up(ask: Ask, after: bytes) -> None:
    """In its headers or in its body: what is asked has its time as a whole, not from byte to byte."""
    with trickling(after) as port:
        bucket = Bucket.open("s3://tests/part", f"http://127.0.0.1:{port}", retries=0, request_seconds=0.2)
        with pytest.raises(BucketError, match="HTTP error"):
            ask(bucket)


def _refused(bucket: Bucket) -> str:
    with pytest.raises(BucketError) as error:
        bucket.create("v1/a", b"data")
    return str(error.value)
