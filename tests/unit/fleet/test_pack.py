"""Bodies in one object, each to be had alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from extproc.fleet import pack
from extproc.fleet.pack import DamagedPack

BODIES = [("a.request", b"one " * 50_000), ("a.response", bytes(range(256)) * 400), ("b.request", b"x")]


def test_each_body_is_had_alone_to_the_byte() -> None:
    """By the table at the end, from the frame that it names."""
    data, table = pack.packed(BODIES)
    assert pack.table_of(data) == table
    for name, body in BODIES:
        entry = table[name]
        alone = b"\0" * entry.offset + data[entry.offset : entry.offset + entry.length]
        assert pack.body(alone, entry) == body


def test_the_same_bodies_give_the_same_bytes() -> None:
    """So a pack that is made again is the one that was shipped."""
    assert pack.packed(BODIES) == pack.packed(BODIES)


def test_zstd_reads_a_pack(tmp_path: Path) -> None:
    """The program sees the bodies, one after the other."""
    (tmp_path / "it.pack").write_bytes(pack.packed(BODIES)[0])
    read = subprocess.run(["zstd", "-dc", tmp_path / "it.pack"], stdout=subprocess.PIPE, check=True)
    assert read.stdout == b"".join(body for _, body in BODIES)


@pytest.mark.parametrize("damage", [b"", b"xprP", b"no pack at all" * 10])
def test_what_is_no_pack_is_named(damage: bytes) -> None:
    """Whatever it is."""
    with pytest.raises(DamagedPack):
        pack.table_of(damage)


def test_a_pack_that_is_cut_or_changed_anywhere_gives_no_wrong_body() -> None:
    """A body is the one that was put in, or an error."""
    data, table = pack.packed(BODIES)
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 0x20
        for name, body in BODIES:
            try:
                assert pack.body(bytes(changed), table[name]) == body
            except DamagedPack:
                continue
    with pytest.raises(DamagedPack):
        pack.table_of(data[:-1])
