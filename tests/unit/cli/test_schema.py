"""The JSON Schema of `--json`, held against what is printed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support import golden, record_docs
from support.commands import invoke
from support.recorded import Recording

from extproc.cli import schema
from extproc.journal.segment import VERSION

REAL = Path(__file__).parents[2] / "forensics" / "real"
JOURNALS = sorted(path for path in REAL.iterdir() if (path / "segments").is_dir())

Check = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def check() -> Check:
    """Takes a line apart. It must be as the schema says, with no member that the schema does not have."""
    strict = json.loads(json.dumps(schema.schema()))
    for definition in strict["$defs"].values():
        definition["additionalProperties"] = False
    Draft202012Validator.check_schema(strict)
    validator = Draft202012Validator(strict)

    def parsed(line: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(line)
        assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)] == []
        return found

    return parsed


def printed(data: Path, *arguments: str) -> Iterator[str]:
    """The lines that a command prints."""
    result = invoke(*arguments, "--data-dir", str(data))
    assert result.exit_code == 0, result.stderr
    return iter(result.stdout.splitlines())


def test_the_schema_says_of_which_version_it_is() -> None:
    """And it is printed by `log --schema`, wherever that is asked."""
    result = invoke("log", "--schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == schema.schema()
    assert (schema.schema()["version"], schema.schema()["$id"]) == (VERSION, f"urn:extproc:exchange:{VERSION}")


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.name)
def test_exchanges_of_real_journals(journal: Path, check: Check) -> None:
    """Deaths, cuts, errors, retries; also of an earlier version."""
    exchanges = [check(line) for line in itertools.islice(printed(journal, "log", "--all", "--json"), 200)]
    assert exchanges
    (shown,) = printed(journal, "show", exchanges[-1]["id"], "--json")
    assert "body" in (check(shown)["request"] or {})


def test_every_fixture(tmp_path: Path, check: Check) -> None:
    """As `log` lists it and as `show` has it: every API, errors, streams, what is odd."""
    with Recording(tmp_path / "data") as recording:
        ids = [_record(recording, golden.load(name)) for name in (*golden.names(), *golden.field_names())]
        ids.append(recording.add(b'{"model":"m"}', None))
        ids.append(recording.add(b"x", None, finished=False))
        ids.append(recording.add(None, b"\xff", headers=[("x", b"\xff")]))
        recording.add_access(ids[0], attempts=2, failed_attempts=[{"upstream": "a"}], tls={"version": "TLSv1.3"})
        recording.add_access(None, response_code_details="route_not_found", status=404)
    listed = [check(line) for line in printed(tmp_path / "data", "log", "--all", "--json")]
    assert {each["id"] for each in listed} >= set(ids)
    assert len(listed) == len(ids) + 1
    for id in ids:
        (line,) = printed(tmp_path / "data", "show", id, "--json")
        assert check(line)["id"] == id


def _record(recording: Recording, fixture: golden.Golden) -> str:
    return recording.add(
        fixture.request_body,
        fixture.response_body or None,
        path=fixture.path,
        status=fixture.status or 200,
        answer_headers=[("content-type", fixture.content_type or "")],
    )


def test_the_page_of_the_records_is_that_of_the_types(checkout: Path) -> None:
    """`make docs` writes it."""
    assert (checkout / "docs" / "records.md").read_text() == record_docs.text()
