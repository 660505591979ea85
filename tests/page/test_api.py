"""`/api/v1`: the same as the commands print, as its document describes it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.commands import invoke
from support.pages import RunningPage
from support.recorded import Recording

SECRET = "the prompt of somebody"


def printed(journal: Path, *arguments: str) -> list[Any]:
    """What a command prints, an object a line."""
    result = invoke(*arguments, "--data-dir", journal)
    return [json.loads(line) for line in result.stdout.splitlines()]


def first(page: RunningPage, query: str = "") -> str:
    """The id of the newest exchange that is meant."""
    (row,) = page.get(f"/exchanges?view=rows&limit=1&q={query}")["exchanges"]
    return str(row["id"])


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("", ()),
        ("q=failed", ("--failed",)),
        ("failed=yes", ("--failed",)),
        ("q=--failed%20--upstream%2010.0.0.1", ("--failed", "--upstream", "10.0.0.1")),
        ("upstream=10.0.0.1&upstream=10.0.0.2", ("--upstream", "10.0.0.1", "--upstream", "10.0.0.2")),
        ("q=model=other%20param=top_k=7", ("--model", "other", "--param", "top_k=7")),
        ("grep=somebody", ("--grep", "somebody")),
        ("status=5xx&until=2100-01-01", ("--status", "5xx", "--until", "2100-01-01")),
        ("q=model=nobody", ("--model", "nobody")),
    ],
)
def test_exchanges_are_those_of_log(page: RunningPage, journal: Path, query: str, arguments: Sequence[str]) -> None:
    """The same words choose the same exchanges, whole, the newest first."""
    expected = printed(journal, "log", "--json", *arguments)
    assert page.get(f"/exchanges?{query}")["exchanges"] == expected[::-1]


def test_pages_follow_one_another(page: RunningPage, journal: Path) -> None:
    """`next` of one is `before` of the next: together they are all, each once."""
    expected = [each["id"] for each in printed(journal, "log", "--json")][::-1]
    found: list[str] = []
    after = ""
    while True:
        answer = page.get(f"/exchanges?view=rows&limit=7{after}")
        found += [each["id"] for each in answer["exchanges"]]
        if answer["next"] is None:
            break
        assert len(answer["exchanges"]) == 7
        after = f"&before={answer['next']}"
    assert found == expected


def test_one_exchange_is_that_of_show(page: RunningPage, journal: Path) -> None:
    """Whole with its bodies; by the end of its id, too."""
    id = first(page)
    (expected,) = printed(journal, "show", "--json", id)
    assert page.get(f"/exchanges/{id}") == expected
    assert page.get(f"/exchanges/{id[-12:]}") == expected
    without = page.get(f"/exchanges/{id}?bodies=no")
    assert without["request"]["body"] is None
    assert without["llm"] == expected["llm"]


def test_bodies_are_exact_downloads(page: RunningPage) -> None:
    """The very bytes, as a file to be saved and of no type that a browser shows."""
    answer = page.ask(f"/api/v1/exchanges/{first(page, 'model=other')}/body/request")
    assert answer.body == b'{"model":"other","prompt":"Once","top_k":7}'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_curl_is_that_of_replay(page: RunningPage, journal: Path) -> None:
    """The script, to the byte; a name that is no exchange's is no word of a command line."""
    id = first(page)
    answer = page.ask(f"/api/v1/exchanges/{id}/curl")
    assert answer.body.decode() == invoke("replay", id, "--curl", "--data-dir", journal).stdout
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert page.ask("/api/v1/exchanges/--help/curl").status == 404


@pytest.mark.parametrize("key", ["upstream", "outcome", "model"])
def test_counts_are_those_of_log(page: RunningPage, journal: Path, key: str) -> None:
    """What `log --by` counts."""
    assert page.get(f"/counts?by={key}") == printed(journal, "log", "--by", key, "--json")


def test_the_histogram_holds_every_exchange(page: RunningPage, journal: Path) -> None:
    """Each is in one span and one class; a filter holds there, too."""
    for query, arguments in (("", ()), ("?q=failed", ("--failed",))):
        bins = page.get(f"/histogram{query}")["bins"]
        count = sum(sum(each["classes"].values()) for each in bins)
        assert count == len(printed(journal, "log", "--json", *arguments)) > 0
        assert [each["at"] for each in bins] == sorted(each["at"] for each in bins)


def test_what_is_rare_is_counted(page: RunningPage) -> None:
    """Each parameter of a request with how many requests for its model have it so, of those that were served."""
    rare = page.get(f"/exchanges/{first(page, 'model=llama-3')}/rare")
    assert rare["of"] == 28
    assert {"temperature"} <= {each["name"] for each in rare["parameters"] if each["count"] == 28}


def turns(*said: str) -> bytes:
    """A request with these messages, the user's and the model's in turn."""
    messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
    return json.dumps({"model": "llama-3", "messages": messages}).encode()


def test_a_conversation(tmp_path: Path) -> None:
    """What goes on with an exchange, what it goes on with, and what parted from it, the oldest first, wherever else it
    went; never what only begins with some of the same words. Redacted, there is no text in it."""
    with Recording(tmp_path) as recording:
        first = recording.add(turns("Hello"))
        other = recording.add(turns("Hello there"))
        own = recording.add(turns("Hello", SECRET, "Go on"), upstream="10.0.0.8:8000")
        parted = recording.add(turns("Hello", "Hi!", "Stop"), path="/v1/chat/completions?user=jo")
        again = recording.add(turns("Hello", SECRET, "Go on"))
        later = recording.add(turns("Hello", SECRET, "Go on", "Well", "Then?"))
        embedding = recording.add(b'{"model":"llama-3","input":"Hello"}', path="/v1/embeddings")
    assert invoke("index", "--data-dir", tmp_path).exit_code == 0
    for redact in (False, True):
        with RunningPage(tmp_path, redact=redact) as page:
            found = page.get(f"/exchanges/{own}/conversation")
            assert [(each["exchange"]["id"], each["relation"], each["messages"]) for each in found["others"]] == [
                (first, "earlier", 1),
                (parted, "branch", 3),
                (again, "same", 3),
                (later, "later", 5),
            ]
            assert (found["messages"], found["more"]) == (3, False)
            assert SECRET not in json.dumps(found)
            assert ("user=jo" in json.dumps(found)) is not redact
            assert page.get(f"/exchanges/{other}/conversation") == {"messages": 1, "others": [], "more": False}
            assert page.get(f"/exchanges/{embedding}/conversation") == {"messages": 0, "others": [], "more": False}
    assert invoke("index", "--check", "--data-dir", tmp_path).exit_code == 0


def test_of_a_long_conversation_the_nearest(tmp_path: Path) -> None:
    """Fifty exchanges at most, those that came nearest to it."""
    with Recording(tmp_path) as recording:
        ids = [recording.add(turns("Hello", *("again",) * (2 * number))) for number in range(60)]
    assert invoke("index", "--data-dir", tmp_path).exit_code == 0
    with RunningPage(tmp_path) as page:
        found = page.get(f"/exchanges/{ids[0]}/conversation")
        assert [each["exchange"]["id"] for each in found["others"]] == ids[1:51]
        assert found["more"] is True


def test_without_an_index_the_answers_are_the_same(page: RunningPage, journal: Path, tmp_path: Path) -> None:
    """The journal itself is read where nobody keeps an index."""
    (tmp_path / "segments").symlink_to(journal / "segments")
    with RunningPage(tmp_path) as other:
        for path in (
            "/exchanges?view=rows&limit=5",
            "/exchanges?q=failed&view=rows",
            "/histogram",
            "/counts?by=status",
        ):
            assert other.get(path) == page.get(path), path


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/exchanges?bogus=1", 400, "bogus"),
        ("/exchanges?q=outcome=nonsense", 400, "nonsense"),
        ("/exchanges?q='", 400, "quotation"),
        ("/exchanges?limit=0", 400, "limit"),
        ("/exchanges?grep=(", 400, "grep"),
        ("/counts?by=nothing", 400, "nothing"),
        ("/exchanges/none-of-ours", 404, "none-of-ours"),
        ("/exchanges/none/body/other", 404, "Not Found"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_what_is_wrong_is_said(page: RunningPage, path: str, status: int, said: str) -> None:
    """In JSON, with the status for it."""
    answer = page.ask(f"/api/v1{path}")
    assert answer.status == status
    assert said in answer.json()["error"]


# The document --------------------------------------------------------------------------------------------------


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of the document, that can stand alone."""
    return {**schema, "components": document["components"]}


def test_answers_are_as_the_document_has_them(page: RunningPage, journal: Path) -> None:
    """Every path of JSON is asked, and what comes validates against its schema."""
    document = page.get("/openapi.json")
    assert document["openapi"].startswith("3.1")
    values = {"id": first(page), "direction": "request"}
    asked = 0
    for path, item in document["paths"].items():
        if "get" not in item:
            continue
        operation = item["get"]
        content = operation["responses"]["200"]["content"]
        if "application/json" not in content:
            continue
        schema = resolved(document, content["application/json"]["schema"])
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(page.get(path.format(**values)), schema, jsonschema.Draft202012Validator)
        if path == "/exchanges":
            jsonschema.validate(page.get(f"{path}?view=rows"), schema, jsonschema.Draft202012Validator)
        asked += 1
    assert asked >= 10
    problem = resolved(document, document["components"]["schemas"]["Problem"])
    jsonschema.validate(page.ask("/api/v1/nothing").json(), problem)


def test_the_document_names_every_path(page: RunningPage) -> None:
    """What design promises is there, and each parameter of a path is described."""
    paths = page.get("/openapi.json")["paths"]
    assert {"/exchanges", "/exchanges/{id}", "/inflight", "/incidents", "/status", "/events"} <= set(paths)
    for path, operation in ((path, each) for path, item in paths.items() for each in item.values()):
        in_path = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}


# Events --------------------------------------------------------------------------------------------------------


def events(page: RunningPage, number: int) -> list[tuple[str, Any]]:
    """The first events of a connection."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=150)
    connection.request("GET", "/api/v1/events")
    response = connection.getresponse()
    assert response.getheader("content-type") == "text/event-stream"
    found: list[tuple[str, Any]] = []
    while len(found) < number:
        name, data, end = (response.readline().decode() for _ in range(3))
        assert end == "\n"
        found.append((name.removeprefix("event: ").strip(), json.loads(data.removeprefix("data: "))))
    connection.close()
    return found


def test_events_begin_with_what_ended_last(page: RunningPage, journal: Path) -> None:
    """First what ended before, in that order, then what is in flight, again and again; for each who watches."""
    for _ in range(2):
        (ended, rows), *states = events(page, 3)
        assert ended == "ended"
        ended_at = [each["ended_at"] for each in printed(journal, "log", "--json")]
        assert [each["ended_at"] for each in rows] == sorted(ended_at)
        assert states == [("inflight", []), ("inflight", [])]


# Redaction -----------------------------------------------------------------------------------------------------


def test_a_redacted_page_has_no_text_of_a_client(journal: Path) -> None:
    """Shapes and sizes stand for texts, in whatever is asked for."""
    with RunningPage(journal, redact=True) as page:
        id = first(page, "model=llama-3")
        paths = (
            "/exchanges?limit=100",
            "/exchanges?view=rows&limit=100",
            f"/exchanges/{id}",
            f"/exchanges/{id}/body/request",
            f"/exchanges/{id}/body/request?decoded=yes",
            f"/exchanges/{id}/body/response",
        )
        for path in paths:
            body = page.ask(f"/api/v1{path}").body
            assert len(body) > 10, path
            for text in (SECRET.encode(), b"Hello there", b"user=jo"):
                assert text not in body, path
        message = page.ask(f"/api/v1/exchanges/{id}/body/request").json()["messages"][0]
        assert message == {"role": "user", "content": f"<{len(SECRET)} characters>"}
        assert page.ask("/api/v1/exchanges?grep=somebody").status == 400
        assert page.ask(f"/api/v1/exchanges/{id}/curl").status == 400
        assert page.get("/about")["redacted"] is True
