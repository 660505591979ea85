"""A backend dies behind the real Envoy, and whoever is on duty hears of it: in the log, on /metrics, by the webhook."""

from __future__ import annotations

import contextlib
import hmac
import http.client
import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.mortal import Mortal
from support.receiver import Receiver
from support.stack import RunningStack, eventually

from extproc.core.joined import NO_LLM

PACE = ("--ttft-ms", "5", "--tokens-per-second", "50")
SECRET = "a secret of both"
RIVERS = [{"role": "user", "content": "Tell me about rivers."}]
BENIGN = {"model": "demo", "messages": RIVERS, "max_tokens": 4, "ignore_eos": True}
KILLER = {**BENIGN, "stream": True, "max_tokens": 64, "response_format": {"type": "text"}}


def ask(stack: RunningStack, body: dict[str, Any]) -> None:
    """Send a request and read its answer, however it ends."""
    request = urllib.request.Request(
        f"{stack.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with (
        contextlib.suppress(OSError, http.client.HTTPException),
        urllib.request.urlopen(request, timeout=60) as answer,
    ):
        answer.read()


def flowing(stack: RunningStack) -> int:
    """How many streams are giving tokens."""
    lines = invoke("inflight", "--json", "--data-dir", stack.data_dir).stdout.splitlines()
    return sum(bool(json.loads(line)["first_token_ms"]) for line in lines)


def busy(stack: RunningStack) -> list[threading.Thread]:
    """Clients of a backend that has served for a while, each with a stream that gives tokens for long."""
    for _ in range(12):
        ask(stack, BENIGN)
    body = {**BENIGN, "stream": True, "max_tokens": 20_000}
    streams = [threading.Thread(target=ask, args=(stack, body)) for _ in range(6)]
    for each in streams:
        each.start()
    eventually(lambda: flowing(stack) == len(streams), "streams that give tokens")
    return streams


def metric(stack: RunningStack, name: str) -> dict[str, float]:
    """The series of a counter."""
    with urllib.request.urlopen(f"{stack.admin}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(f"{name}{{")}


@pytest.mark.e2e
def test_a_death_is_told_while_it_happens(tmp_path: Path) -> None:
    """Once by each way, with the killer as the first suspect, and as `extproc incidents` has it."""
    settings = {"log_format": "json", "webhook_redact": "false"}
    with (
        Receiver() as receiver,
        Mortal("response_format.type=text", how="kill", restart_after=None, pace=PACE) as backend,
    ):
        with RunningStack(
            tmp_path, "--backend", backend.url, webhook_url=receiver.url, EXTPROC_WEBHOOK_SECRET=SECRET, **settings
        ) as stack:
            streams = busy(stack)
            ask(stack, KILLER)
            for each in streams:
                each.join()
            eventually(lambda: receiver.posts or None, "the webhook")
            counted = eventually(lambda: metric(stack, "extproc_incidents_total") or None, "the metric")
            printed = invoke("incidents", "last", "--json", "--data-dir", stack.data_dir).stdout
        told = [json.loads(line) for line in stack.stderr().splitlines() if '"incident": ' in line]
    post, found = receiver.posts[0], json.loads(receiver.posts[0].body)
    upstream = backend.url.removeprefix("http://")
    assert counted == {f'extproc_incidents_total{{class="death",upstream="{upstream}"}}': 1.0}
    assert [(each["event"], each["incident"]) for each in told] == [("a backend died", found["id"])]
    signed = f"{post.headers['x-extproc-timestamp']}.".encode() + post.body
    assert post.headers["x-extproc-signature"] == "sha256=" + hmac.digest(SECRET.encode(), signed, "sha256").hex()
    assert (found["class"], found["upstream"], found["verdict"]) == ("death", upstream, "suspects")
    (killer,) = (each.id for each in stack.exchanges() if "response_format" in ((each.llm or NO_LLM).params or {}))
    assert found["suspects"][0]["exchange"] == killer
    last = json.loads(printed)
    assert (last["id"], last["class"], last["suspects"][0]["exchange"]) == (found["id"], "death", killer)


@pytest.mark.e2e
@pytest.mark.parametrize(("how", "ended"), [("hang", "hang"), ("freeze=12", "freeze")])
def test_a_silence_is_told_while_it_lasts(tmp_path: Path, how: str, ended: str) -> None:
    """As a hang, with the request that caused it as the first suspect though nobody knows yet where that is; and under
    the same id when it is over, for what it was. `extproc incidents` has the last word, which is no other."""
    settings = {"log_format": "json", "webhook_redact": "false"}
    with (
        Receiver() as receiver,
        Mortal("response_format.type=text", how=how, restart_after=None, pace=PACE) as backend,
    ):
        with RunningStack(tmp_path, "--backend", backend.url, webhook_url=receiver.url, **settings) as stack:
            streams = busy(stack)
            guilty = threading.Thread(target=ask, args=(stack, KILLER))
            guilty.start()
            eventually(lambda: receiver.posts or None, "the webhook")
            told = json.loads(receiver.posts[0].body)
            if how == "hang":
                backend.kill()
            eventually(lambda: len(receiver.posts) == 2, "its end")
            changed = metric(stack, "extproc_incident_changes_total")
            counted = metric(stack, "extproc_incidents_total")
            printed = invoke("incidents", "last", "--json", "--data-dir", stack.data_dir).stdout
            backend.kill()
            for each in [guilty, *streams]:
                each.join()
        log = [json.loads(line) for line in stack.stderr().splitlines() if '"incident": ' in line]
    over, last = json.loads(receiver.posts[1].body), json.loads(printed)
    upstream = backend.url.removeprefix("http://")
    (killer,) = (each.id for each in stack.exchanges() if "response_format" in ((each.llm or NO_LLM).params or {}))
    assert [post.headers["x-extproc-event"] for post in receiver.posts] == ["incident", "ended"]
    assert (told["class"], told["ended_at"], told["suspects"][0]["exchange"]) == ("hang", None, killer)
    for each in (over, last):
        assert (each["id"], each["class"], each["suspects"][0]["exchange"]) == (told["id"], ended, killer)
        assert each["ended_at"] is not None
    assert counted == {f'extproc_incidents_total{{class="hang",upstream="{upstream}"}}': 1.0}
    assert sum(changed.values()) == (ended != "hang")
    assert [each["incident"] for each in log] == [told["id"]] * 2
