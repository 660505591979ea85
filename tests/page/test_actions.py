"""What the page does beside reading: who may ask for it, that it is noted, and that it does what the command does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import Page
from support.mortal import Mortal
from support.pages import RunningPage, well
from support.recorded import Recording

from extproc.page.tokens import Tokens
from extproc.quarantine import entries
from extproc.quarantine.entries import Mode

pytestmark = pytest.mark.timeout(240)

TOKEN = "0123456789abcdef"
DEATH = Path(__file__).parents[1] / "forensics" / "real" / "k_regex_bad_stream"
ANN = {"authorization": f"Bearer {TOKEN}"}
JSON = {"content_type": "application/json"}
PRODUCTION = "127.0.0.1:52695"
"""What died in that journal."""


@pytest.fixture(scope="module")
def server() -> Iterator[Mortal]:
    """A server that dies of logprobs, and comes back."""
    with Mortal("logprobs") as running:
        yield running


@pytest.fixture
def page(tmp_path: Path, server: Mortal) -> Iterator[RunningPage]:
    """The page over the journal of a real death, with a token and two servers, of which one is no test server."""
    directory = tmp_path / "data"
    shutil.copytree(DEATH, directory)
    with Recording(directory) as recording:
        recording.add(b'{"model":"llama-3","messages":[{"role":"user","content":"hi"}]}')
        recording.add(b'{"model":"llama-3","messages":[{"role":"user","content":"hi"}],"logprobs":true}')
    servers = {"gpu-test": server.url, "production": f"http://{PRODUCTION}"}
    with RunningPage(directory, tokens=Tokens([("ann", TOKEN)]), servers=servers) as running:
        yield running


def held(page: RunningPage) -> list[dict[str, Any]]:
    """What is in quarantine."""
    found: list[dict[str, Any]] = page.get("/quarantine", **ANN)["entries"]
    return found


def post(page: RunningPage, path: str, value: object, **headers: str) -> tuple[int, Any]:
    """Something to be done, by Ann."""
    body = json.dumps(value).encode()
    answer = page.send(f"/api/v1{path}", "POST", body, JSON | ANN | headers)
    return answer.status, answer.json()


def noted(directory: Path) -> list[str]:
    """What the data directory says was done or read."""
    lines = (directory / "page" / "access.jsonl").read_text().splitlines()
    return [json.loads(line)["what"] for line in lines]


def newest(page: RunningPage, line: str = "") -> str:
    """The id of the newest exchange that is meant."""
    id: str = page.get(f"/exchanges?view=rows&limit=1&q={line}", **ANN)["exchanges"][0]["id"]
    return id


def test_an_incidents_suspect_goes_into_quarantine_and_out(page: RunningPage, tmp_path: Path) -> None:
    """With the incident's id, in the mode and for the time that was asked for; noted before it is done."""
    (incident,) = page.get("/incidents", **ANN)
    status, entry = post(page, "/quarantine", {"id": incident["id"], "expires": "2h", "mode": "refuse"})
    assert status == 200, entry
    assert held(page) == [entry]
    (kept,) = entries.load(tmp_path / "data").entries
    assert (kept.incident, kept.mode, kept.id) == (incident["id"], Mode.REFUSE, entry["id"])
    assert (
        kept.fingerprint == page.get(f"/exchanges/{incident['suspects'][0]['exchange']}", **ANN)["llm"]["fingerprint"]
    )
    assert page.ask(f"/api/v1/quarantine/{entry['id']}", "DELETE", **ANN).status == 200
    assert held(page) == []
    done = [each for each in noted(tmp_path / "data") if each.startswith("quarantine")]
    assert done == [f"quarantine add {incident['id']}", f"quarantine remove {entry['id']}"]


def test_a_request_is_sent_to_a_test_server(page: RunningPage, server: Mortal, tmp_path: Path) -> None:
    """And what it did there is said."""
    killer = newest(page, "param=logprobs%3Dtrue")
    deaths = server.deaths
    status, sent = post(page, f"/exchanges/{killer}/replay", {"to": "gpu-test"})
    assert (status, sent["verdict"]) == (200, "killed"), sent
    assert server.deaths > deaths
    assert noted(tmp_path / "data")[-1] == f"replay {killer} to gpu-test"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/quarantine", {"id": "00000000"}, 404),
        ("/quarantine", {"id": "--help"}, 404),
        ("/quarantine", {"id": "20260101-000000-abcdef"}, 409),
        ("/quarantine", {"id": "ID", "mode": "kill"}, 400),
        ("/quarantine", {"id": "ID", "expires": "--json"}, 400),
        ("/quarantine", {"id": "ID", "more": 1}, 400),
        ("/quarantine", ["ID"], 400),
        ("/exchanges/ID/replay", {"to": "http://gpu-test"}, 404),
        ("/exchanges/00000000/replay", {"to": "gpu-test"}, 404),
    ],
)
def test_what_cannot_be_done_is_refused(page: RunningPage, path: str, body: Any, status: int) -> None:
    """With a reason, and nothing is in quarantine afterwards; no word of it becomes an option of a command."""
    id = newest(page)
    text = json.loads(json.dumps(body).replace('"ID"', f'"{id}"'))
    got, answer = post(page, path.replace("ID", id), text)
    assert (got, set(answer)) == (status, {"error"}), answer
    assert held(page) == []


def test_nothing_is_sent_to_a_backend_that_serves(page: RunningPage) -> None:
    """What may have killed it is not sent there again, whatever name it was given."""
    (incident,) = page.get("/incidents", **ANN)
    suspect = incident["suspects"][0]["exchange"]
    status, answer = post(page, f"/exchanges/{suspect}/replay", {"to": "production"})
    assert status == 409
    assert PRODUCTION in answer["error"]


def test_only_whoever_has_a_token_may_ask(page: RunningPage, tmp_path: Path) -> None:
    """Not without one, not from another page, and no form of any page can send what is taken."""
    asked = {"id": newest(page)}
    assert post(page, "/quarantine", asked, authorization="Bearer no")[0] == 401
    assert post(page, "/quarantine", asked, origin="http://evil.test")[0] == 403
    assert post(page, "/quarantine", asked, sec_fetch_site="cross-site")[0] == 403
    assert post(page, "/quarantine", asked, content_type="text/plain")[0] == 415
    assert post(page, "/status", asked)[0] == 405
    assert held(page) == []
    with RunningPage(tmp_path / "data") as open_to_all:
        for method, path in (("POST", "/quarantine"), ("DELETE", "/quarantine/q-1"), ("POST", "/exchanges/1/replay")):
            answer = open_to_all.send(f"/api/v1{path}", method, b"{}", JSON)
            assert (answer.status, "--token-file" in answer.json()["error"]) == (405, True)
        assert open_to_all.get("/about")["actions"] is False


def test_a_person_is_asked_once_more(page: RunningPage, tab: Page) -> None:
    """The dialog of an incident: leaving it does nothing, agreeing does it, and the page then says so."""
    (incident,) = page.get("/incidents", **ANN)
    given = f"sessionStorage.setItem('extproc-token', '{TOKEN}')"
    tab.send("Page.addScriptToEvaluateOnNewDocument", source=given)
    tab.open(f"{page.url}#/incidents/{incident['id']}")
    put = "[...document.querySelectorAll('button')].find((each) => each.textContent === 'Put into quarantine')"
    tab.until(f"document.body.innerText.includes('Nothing of it is in quarantine') && {put}")
    tab.evaluate(f"{put}.click()")
    tab.until("document.querySelector('dialog[open]')?.textContent.includes('Put requests like this')")
    tab.press("Enter")  # on what is safe
    tab.until("!document.querySelector('dialog[aria-label^=Put]')")
    assert held(page) == []
    tab.evaluate(f"{put}.click()")
    tab.until("document.querySelector('dialog[open]')")
    tab.evaluate("document.querySelector('dialog[open] button[value=yes]').click()")
    tab.until(
        "document.querySelector('main code') && document.body.innerText.includes(': in quarantine, in mode shadow')"
    )
    assert [(each["incident"], each["mode"]) for each in held(page)] == [(incident["id"], "shadow")]
    taken = "[...document.querySelectorAll('main button')].find((each) => each.textContent === 'Take it out')"
    tab.evaluate(f"{taken}.click()")
    tab.until("document.querySelector('dialog[open] button[value=yes]')")
    tab.evaluate("document.querySelector('dialog[open] button[value=yes]').click()")
    tab.until("document.body.innerText.includes('Nothing of it is in quarantine')")
    assert held(page) == []
    well(tab, page)
