"""A person's exchanges leave a journal, its index and a bucket, and everything else stays as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.commands import invoke
from support.journals import START_NS, access, append, appended, id_of, journal, request, response, write

from extproc.core.effects import Effect, Spool, SpoolEnd
from extproc.core.events import Direction
from extproc.fleet import erase, signed
from extproc.fleet.bucket import Bucket, directory_url
from extproc.fleet.erase import By
from extproc.fleet.ship import Shipper
from extproc.history import reader, verify
from extproc.journal import retention

SECRET = "Alice's secret"
ALICE = {0, 3, 4, 7}


def body_of(number: int) -> bytes:
    """What a request says: some are Alice's, one is of somebody whose name a glob of hers would match."""
    user = "alice@example.com" if number in ALICE else "alice@example_com" if number == 1 else f"user-{number}"
    content = f"{SECRET if number in ALICE else 'hello'} {number}"
    return json.dumps({"model": "m", "user": user, "messages": [{"role": "user", "content": content}]}).encode()


def chat(number: int, body: bytes | None = None, *, file: bool = False) -> bytes:
    """A request to a model."""
    record = json.loads(request(number, body_of(number) if body is None else body, file=file))
    llm = {"api": "chat.completions", "model": "m", "params": {"user": json.loads(body_of(number))["user"]}}
    return json.dumps(record | {"path": "/v1/chat/completions", "llm": llm if file else None}).encode()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten exchanges in closed segments, of which four are Alice's; one spans two segments, one has a body file."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    with journal(directory, segment_bytes=4000, clock=lambda: START_NS) as writer:
        append(writer, chat(0))
        for number in range(1, 4):
            append(writer, chat(number), response(number, SECRET.encode()), access(number))
        append(writer, response(0), access(0))
        body = body_of(4) * 1000
        spooled: list[Effect] = [Spool(id_of(4), Direction.REQUEST, [body]), SpoolEnd(id_of(4), Direction.REQUEST)]
        assert write(writer, *spooled, appended(chat(4, body, file=True))) is None
        append(writer, response(4), access(4))
        for number in range(5, 10):
            append(writer, chat(number), response(number), access(number))
    retention.compress_closed(directory)
    return directory


def said(directory: Path) -> dict[str, Any]:
    """The exchanges by their ids, as `log --json` has them."""
    return {each.id: each.members() for each in reader.exchanges([directory])}


def everything(directory: Path) -> bytes:
    """All bytes of a directory, segments as lines."""
    content = b""
    for path in sorted(each for each in directory.rglob("*") if each.is_file()):
        raw = path.read_bytes()
        if raw.startswith(b"\x28\xb5\x2f\xfd"):
            raw = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
        content += raw
    return content


HERS = {id_of(number) for number in ALICE}


@pytest.mark.parametrize("arguments", [["--user", "alice@example.com"]])
def test_a_persons_exchanges_leave_the_journal(data: Path, arguments: list[str]) -> None:
    """Every record, body and row of them; the others are as they were, and the journal is whole."""
    before = said(data)
    assert invoke("index", "--data-dir", data).exit_code == 0
    assert before.keys() > HERS
    done = invoke("erase", *arguments, "--data-dir", data)
    assert done.exit_code == 0, done.output
    assert "4 exchanges erased: 13 records" in done.output
    assert said(data) == {id: each for id, each in before.items() if id not in HERS}
    assert list(verify.verify(data)) == []
    assert invoke("index", "--check", "--data-dir", data).exit_code == 0
    left = everything(data)
    assert b"Alice's secret 0" not in left
    assert b"alice@example.com" not in left
    again = invoke("erase", *arguments, "--data-dir", data)
    assert "0 exchanges erased" in again.output


def test_nothing_goes_in_a_dry_run(data: Path) -> None:
    """It names what would go."""
    before = everything(data / "segments")
    done = invoke("erase", "--user", "alice@example.com", "--dry-run", "--data-dir", data)
    assert set(done.stdout.split()) == HERS
    assert everything(data / "segments") == before


def test_a_person_is_named_whole(data: Path) -> None:
    """No glob and no part of a name is taken for a person's."""
    for user in ("alice*", "alice", "*", "alice@example?com"):
        assert "0 exchanges erased" in invoke("erase", "--user", user, "--data-dir", data).output
    assert invoke("erase", "--user", "", "--data-dir", data).exit_code == 2
    assert invoke("erase", "--data-dir", data).exit_code == 2


def test_the_list_is_signed(data: Path) -> None:
    """It says what went by ids and checksums, not whose it was; a change anywhere breaks the signature."""
    invoke("erase", "--user", "alice@example.com", "--data-dir", data)
    (path,) = (data / "erasures").iterdir()
    text = path.read_bytes()
    fields = json.loads(text)
    assert set(fields["ids"]) == HERS
    assert b"alice" not in text.lower()
    assert signed.check(text, fields["public_key"])
    assert not signed.check(text.replace(HERS.pop().encode(), id_of(99).encode()))
    assert not signed.check(text, "another key")


def test_what_is_being_written_is_left(data: Path) -> None:
    """An exchange with a record in the open segment stays whole, is named, and goes when it has been closed."""
    with journal(data, boot_id="b2") as writer:
        append(writer, chat(20), response(20))
        done = invoke("erase", "--id", id_of(20), "--data-dir", data)
        assert done.exit_code == 1
        assert id_of(20) in done.stderr
        assert id_of(20) in said(data)
    assert invoke("erase", "--id", id_of(20), "--data-dir", data).exit_code == 0
    assert id_of(20) not in said(data)


def test_an_erasure_that_is_cut_off_is_done_again(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After any of its segments: the second one finds the rest, and the journal is whole."""
    real = erase._replace
    for cut in range(3):
        copy = tmp_path / f"copy-{cut}"
        shutil.copytree(data, copy)
        left = cut

        def replace(*given: Any, real: Callable[..., Any] = real) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(erase, "_replace", replace)
            with pytest.raises(KeyboardInterrupt):
                erase.from_journal(copy, erase.find([copy], By(user="alice@example.com")))
        invoke("erase", "--user", "alice@example.com", "--data-dir", copy)
        assert list(verify.verify(copy)) == []
        assert b"alice@example.com" not in everything(copy)


def test_a_persons_exchanges_leave_a_bucket(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments, rows and packs; `verify` accepts what is left, and the others are answered for as before."""
    monkeypatch.setenv("EXTPROC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    bucket = Bucket.open(directory_url(tmp_path / "bucket"))
    assert Shipper(data, bucket).round().errors == []
    others = invoke("show", id_of(5), "--json", "--from", bucket.url).stdout
    done = invoke("erase", "--user", "alice@example.com", "--from", bucket.url)
    assert done.exit_code == 0, done.output
    assert "4 exchanges erased: 13 records" in done.output
    assert "1 bodies" in done.output
    assert invoke("verify", bucket.url).exit_code == 0
    left = everything(tmp_path / "bucket")
    assert b"alice@example.com" not in left
    assert not any(id.encode() in each.read_bytes() for id in HERS for each in (tmp_path / "bucket").rglob("*.parquet"))
    assert invoke("show", id_of(5), "--json", "--from", bucket.url).stdout == others
    assert {line.split("\t")[-1] for line in invoke("log", "--from", bucket.url).stdout.splitlines()}.isdisjoint(HERS)
    (listed,) = bucket.objects("v1/erasures")
    assert signed.check(bucket.read(listed.path))
