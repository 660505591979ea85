"""A request that a client's retries carried from one machine's engine to the next, found in what both have shipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.exchanges import present

from extproc.fleet import erase
from extproc.fleet.bucket import Bucket, directory_url
from extproc.fleet.erase import Found
from extproc.fleet.ship import Shipper
from extproc.fleet.tombstone import Wanted
from extproc.history import reader

JOURNAL = Path(__file__).parent / "k_fleet_sdk_retry"
ELSEWHERE = "the very same request was waiting at 1 other death"


def told(*where: str | Path) -> list[dict[str, Any]]:
    """The incidents, the first one first."""
    found = [json.loads(line) for line in invoke("incidents", "--json", *where).stdout.splitlines()]
    return sorted(found, key=lambda each: str(each["at"]))


def test_a_killer_is_found_across_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine has only what went to its own engine; together, and from the bucket, they tell what one journal of
    both tells: each death with its first suspect, which was in flight at the other death, too."""
    monkeypatch.setenv("EXTPROC_CACHE", str(tmp_path / "cache"))
    whole = tmp_path / "whole"
    shutil.copytree(JOURNAL, whole)
    ids = {each.id: present(each.upstream) for each in reader.exchanges([whole])}
    machines: list[Path] = []
    bucket = Bucket.open(directory_url(tmp_path / "bucket"))
    for upstream in sorted(set(ids.values())):
        machine = tmp_path / f"machine-{len(machines)}"
        shutil.copytree(JOURNAL, machine)
        machine.chmod(0o700)
        others = {id for id, its in ids.items() if its != upstream}
        erase.from_journal(machine, Found(Wanted(others), set()))
        assert Shipper(machine, bucket).round().errors == []
        machines.append(machine)
    assert len(machines) == 2
    right = told("--data-dir", whole)
    shipped = told("--from", bucket.url)
    assert [(each["id"], each["class"], each["upstream"]) for each in shipped] == [
        (each["id"], each["class"], each["upstream"]) for each in right
    ]
    killers = {each["id"] for each in json.loads((JOURNAL / "truth.json").read_text())["killers"]}
    assert len(shipped) == 2
    for each in shipped:
        first = each["suspects"][0]
        assert first["exchange"] in killers
        assert any(ELSEWHERE in reason for reason in first["reasons"])
    for machine in machines:
        (alone,) = told("--data-dir", machine)
        assert not any(ELSEWHERE in reason for each in alone["suspects"] for reason in each["reasons"])
