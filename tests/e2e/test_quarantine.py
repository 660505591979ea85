"""Quarantine through the real Envoy: counted, refused, and live at once."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.stack import RunningStack, eventually

KILLER = {"model": "demo", "messages": [{"role": "user", "content": "a"}], "response_format": {"type": "text"}}
HARMLESS = {"model": "demo", "messages": [{"role": "user", "content": "a"}]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Demo backends behind the shipped configuration."""
    with RunningStack(tmp_path_factory.mktemp("quarantine")) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def ask(stack: RunningStack, body: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
    """The status of an answer, its JSON, and the exchange's id, if the recorder gave one."""
    request = urllib.request.Request(
        f"{stack.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer), answer.headers["x-audit-id"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), error.headers.get("x-audit-id") or ""


def quarantine(stack: RunningStack, *arguments: str) -> Any:
    """What a command prints as JSON."""
    result = invoke("quarantine", *arguments, "--json", "--data-dir", stack.data_dir)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def remove(stack: RunningStack, id: str) -> None:
    """Take an entry out, and wait until the workers have it."""
    assert invoke("quarantine", "remove", id, "--data-dir", stack.data_dir).exit_code == 0
    eventually(lambda: ask(stack, KILLER)[0] == 200, "the end of the entry")


def counted(stack: RunningStack, mode: str) -> float:
    """The metric."""
    with urllib.request.urlopen(f"{stack.admin}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.split()[1]) for line in lines if line.startswith(f'extproc_quarantined_total{{mode="{mode}"}}')
    )


@pytest.mark.e2e
def test_shadow_counts_what_passes(stack: RunningStack) -> None:
    """By itself an entry keeps nothing from a backend: what it would have, and in vain, is shown."""
    entry = quarantine(stack, "add", "--atom", 'response_format.type="text"')

    def noticed() -> bool:
        assert ask(stack, KILLER)[0] == 200
        return counted(stack, "shadow") > 0

    eventually(noticed, "a request that is counted")
    _, _, id = ask(stack, KILLER)
    stack.exchange(id)
    (listed,) = quarantine(stack, "list")["entries"]
    assert listed["matched"] == listed["would_refuse"] >= 2
    assert listed["false_positives"] >= 1
    assert listed["refused"] == 0
    remove(stack, entry["id"])


@pytest.mark.e2e
def test_refuse_is_422_in_openais_shape_and_live_at_once(stack: RunningStack) -> None:
    """The backend has nothing of it, the record has all of it, and other requests pass."""
    entry = quarantine(stack, "add", "--atom", 'response_format.type="text"', "--mode", "refuse")
    status, answer = eventually(lambda: (ask(stack, KILLER)[:2]) if ask(stack, KILLER)[0] != 200 else None, "a refusal")
    assert status == 422
    assert answer["error"]["code"] == "quarantined"
    assert answer["error"]["type"] == "invalid_request_error"
    assert entry["id"] in answer["error"]["message"]
    assert ask(stack, HARMLESS)[0] == 200
    refused = eventually(
        lambda: [each for each in stack.exchanges() if each.outcome == "rejected_by_policy"], "the refused exchange"
    )
    assert all(each.upstream is None for each in refused)
    assert json.loads(invoke("show", refused[0].id, "--body", "request", "--data-dir", stack.data_dir).stdout) == KILLER
    (listed,) = quarantine(stack, "list")["entries"]
    assert listed["refused"] >= 1
    remove(stack, entry["id"])


@pytest.mark.e2e
def test_a_fingerprint_is_taken_from_an_exchange(stack: RunningStack) -> None:
    """And limited to a model: other models' requests of that shape pass."""
    _, _, id = ask(stack, KILLER)
    stack.exchange(id)
    entry = quarantine(stack, "add", id, "--model", "demo", "--mode", "refuse")
    eventually(lambda: ask(stack, KILLER)[0] == 422, "a refusal")
    assert ask(stack, {**KILLER, "model": "other"})[0] == 200
    remove(stack, entry["id"])


def test_mode_is_said_and_changed(tmp_path: Path) -> None:
    """`shadow` where nobody has said anything."""
    arguments = ("--data-dir", tmp_path)
    assert invoke("quarantine", "mode", *arguments).stdout == "shadow\n"
    assert invoke("quarantine", "mode", "refuse", *arguments).stdout == "refuse\n"
    assert json.loads(invoke("quarantine", "list", "--json", *arguments).stdout) == {"mode": "refuse", "entries": []}
    assert invoke("quarantine", "remove", "q-none", *arguments).exit_code == 2
