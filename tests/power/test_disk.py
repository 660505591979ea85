"""The disk that the states after a power cut come from."""

from __future__ import annotations

from pathlib import Path

from support.disk import Disk
from support.syscalls import Call, Event

ROOT = Path("/run")


def quoted(data: bytes) -> str:
    """As strace writes it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def begun(name: str, *arguments: str) -> Event:
    """A call that has not ended yet."""
    return "begun", Call(name, [*arguments])


def ended(event: Event, result: int) -> Event:
    """The end of it."""
    event[1].result = result
    return "ended", event[1]


def test_a_number_is_a_new_handle_s_before_the_close_that_gave_it_free_is_seen_to_end() -> None:
    """One thread closes, another is given that number at once, and strace sees the second call end before the first."""
    closing = begun("close", "5")
    opening = begun("openat", "AT_FDCWD", quoted(b"/run/body"), "O_WRONLY|O_CREAT")
    writing = begun("write", "5", quoted(b"all of it"))
    syncing = begun("fsync", "5")
    disk = Disk(ROOT, {"old": b""})
    old = begun("openat", "AT_FDCWD", quoted(b"/run/old"), "O_RDONLY")
    events = [old, ended(old, 5), closing, opening, ended(opening, 5), ended(closing, 0)]
    events += [writing, ended(writing, 9), syncing, ended(syncing, 0)]
    states = list(disk.states(events))
    assert states[-1].files == {"old": b"", "body": b"all of it"}
