"""Large bodies: in their own files, in order, and never in the way of others."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from support.journals import (
    WAIT_SECONDS,
    Faults,
    Waiter,
    append,
    appended,
    id_of,
    journal,
    records,
    request,
    response,
    write,
)

from extproc.core.effects import Spool, SpoolEnd
from extproc.core.events import Direction
from extproc.history import verify
from extproc.journal import spool

REQUEST, RESPONSE = Direction.REQUEST, Direction.RESPONSE


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def findings(data: Path) -> list[str]:
    """What `verify` says."""
    return [str(finding) for finding in verify.verify(data)]


def body(data: Path, number: int, direction: str = "request") -> bytes:
    """What the body file holds."""
    return (data / "bodies" / f"{id_of(number)}.{direction}").read_bytes()


def test_a_body_in_pieces(data: Path) -> None:
    """The pieces stand in the file in order, private to us, and the record follows."""
    with journal(data) as writer:
        assert write(writer, Spool(id_of(1), REQUEST, [b"one ", b"two "])) is None
        assert body(data, 1) == b"one two "
        assert write(writer, Spool(id_of(1), REQUEST, [b"three"])) is None
        end = appended(request(1, b"one two three", file=True))
        assert write(writer, SpoolEnd(id_of(1), REQUEST), end) is None
        append(writer, response(1))
    path = data / "bodies" / f"{id_of(1)}.request"
    assert path.read_bytes() == b"one two three"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert findings(data) == []


def test_a_record_does_not_overtake_its_body(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of an exchange that is still being spooled waits for that; records of others do not."""
    writing, go_on = threading.Event(), threading.Event()
    real = os.write

    def held(fd: int, content: bytes) -> int:
        if bytes(content[:4]) == b"body":
            writing.set()
            assert go_on.wait(WAIT_SECONDS)
        return real(fd, content)

    with journal(data) as writer:
        append(writer, request(1, type="open"))
        monkeypatch.setattr(os, "write", held)
        mine = Waiter()
        writer.submit([Spool(id_of(1), REQUEST, [b"body"])], mine)
        assert writing.wait(WAIT_SECONDS)
        writer.submit([SpoolEnd(id_of(1), REQUEST), appended(request(1, b"body", file=True))], mine)
        writer.submit([appended(response(1))], mine)
        append(writer, request(2), response(2))
        assert mine.answers == []
        go_on.set()
        assert mine.wait(3) == [None, None, None]
    assert [(r["type"], r["id"]) for r in records(data) if "id" in r] == [
        ("open", id_of(1)),
        ("request", id_of(2)),
        ("response", id_of(2)),
        ("request", id_of(1)),
        ("response", id_of(1)),
    ]
    assert findings(data) == []


def test_a_body_file_never_stands_without_a_record(data: Path, faults: Faults) -> None:
    """Before the file is made, the journal holds a record of the exchange, its own if need be."""
    with journal(data) as writer:
        faults.fail("open", error=errno.EMFILE)
        assert write(writer, Spool(id_of(1), REQUEST, [b"x"])) is not None
        faults.heal()
        assert not (data / "bodies" / f"{id_of(1)}.request").exists()
        assert [record["type"] for record in records(data) if "id" in record] == ["open"]
        append(writer, response(1))
    assert findings(data) == []


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """A disk with faults."""
    return Faults(monkeypatch)


def test_the_file_is_synced_before_the_record(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Body file, then directory, then the record's own sync."""
    with journal(data) as writer:
        assert write(writer, Spool(id_of(1), REQUEST, [b"x" * 10])) is None
        names: list[str] = []
        for call in ("fsync", "fdatasync"):
            real = getattr(os, call)

            def watched(fd: int, real: object = real) -> None:
                names.append(Path(f"/proc/self/fd/{fd}").readlink().name)
                real(fd)  # type: ignore[operator]

            monkeypatch.setattr(os, call, watched)
        end = appended(request(1, b"x" * 10, file=True))
        assert write(writer, SpoolEnd(id_of(1), REQUEST), end) is None
        assert names == [f"{id_of(1)}.request", "bodies", "w0-b1-000001.jsonl.open"]
        append(writer, response(1))


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_failed_spool_is_that_exchange_s_own_trouble(data: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """It gets the error for all that follows of this body; the file stays; others and the journal go on."""
    real = getattr(os, call)

    def broken(fd: int, *rest: bytes) -> object:
        if id_of(1) in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, *rest)

    with journal(data) as writer:
        append(writer, request(1), request(2))
        assert write(writer, Spool(id_of(1), RESPONSE, [b"first "])) is None
        monkeypatch.setattr(os, call, broken)
        assert (write(writer, Spool(id_of(1), RESPONSE, [b"second"])) is None) == (call == "fdatasync")
        end = SpoolEnd(id_of(1), RESPONSE), appended(response(1, b"first second", file=True))
        assert "Input/output error" in str(write(writer, *end))
        assert writer.failure is None
        assert write(writer, Spool(id_of(2), RESPONSE, [b"fine"])) is None
        end = SpoolEnd(id_of(2), RESPONSE), appended(response(2, b"fine", file=True))
        assert write(writer, *end) is None
    assert body(data, 1, "response").startswith(b"first ")
    ends = {record["id"]: record["response"]["body"] for record in records(data, type="response")}
    assert ends == {id_of(1): None, id_of(2): {"file": f"bodies/{id_of(2)}.response"}}
    assert findings(data) == []


def test_more_bodies_than_files_may_be_open(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle files are closed and opened again; no byte is lost by it."""
    monkeypatch.setattr(spool, "_OPEN_FILES", 2)
    with journal(data, durability="write") as writer:
        for piece in (b"a", b"b", b"c"):
            for number in range(40):
                assert write(writer, Spool(id_of(number), REQUEST, [piece * number])) is None
            held = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
            assert sum("/bodies/" in name for name in held) <= 2 * 4  # threads
        for number in range(40):
            whole = b"a" * number + b"b" * number + b"c" * number
            end = appended(request(number, whole, file=True))
            assert write(writer, SpoolEnd(id_of(number), REQUEST), end, appended(response(number))) is None
    assert findings(data) == []


@pytest.mark.parametrize("id", ["../../etc/passwd", "a/b", "", ".", "x" * 65, "a\0b"])
def test_only_our_names(data: Path, id: str) -> None:
    """What is not an id of ours never becomes a file name."""
    with journal(data) as writer:
        assert write(writer, Spool(id, REQUEST, [b"x"])) is not None
    assert list((data / "bodies").iterdir()) == []
    assert [record["type"] for record in records(data)] == ["segment", "end"]


def test_a_link_in_the_place_of_a_body(data: Path) -> None:
    """A file or a link that is there already is not written to."""
    with journal(data) as writer:
        (data / "bodies" / f"{id_of(1)}.request").symlink_to(data / "elsewhere")
        assert "File exists" in str(write(writer, Spool(id_of(1), REQUEST, [b"x"])))
        append(writer, response(1))
    assert not (data / "elsewhere").exists()


def test_closing_waits_for_what_was_submitted(data: Path) -> None:
    """Bodies on their way are finished, and so are the records behind them."""
    waiter = Waiter()
    with journal(data) as writer:
        for number in range(30):
            id = id_of(number)
            writer.submit([Spool(id, REQUEST, [b"x" * 100_000])], waiter)
            done = (
                SpoolEnd(id, REQUEST),
                appended(request(number, b"x" * 100_000, file=True)),
                appended(response(number)),
            )
            writer.submit(done, waiter)
    assert waiter.wait(60) == [None] * 60
    assert findings(data) == []
