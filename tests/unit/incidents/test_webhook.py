"""What is posted to a webhook: signed, tried again, and nobody waits."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.receiver import Receiver
from support.stack import eventually

from extproc.errors import ConfigError
from extproc.incidents import webhook
from extproc.incidents.webhook import Delivery, Webhook

SECRET = b"a secret"
AT_ONCE = (0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody who takes what is posted."""
    with Receiver() as receiver:
        yield receiver


def send(receiver: Receiver, *deliveries: Delivery, secret: bytes | None = SECRET) -> Webhook:
    """Post these, and wait until each was taken or given up."""
    hook = Webhook(receiver.url, secret, AT_ONCE)
    for each in deliveries:
        hook.send(each)
    eventually(lambda: hook.delivered + hook.failed == len(deliveries), "the end of the deliveries")
    return hook


def test_a_delivery_is_signed_with_its_time(receiver: Receiver) -> None:
    """As the receiver of docs/forensics.md checks it."""
    send(receiver, Delivery("i-1", "incident", {"id": "i-1", "text": "\u00fc"}))
    (post,) = receiver.posts
    signed = f"{post.headers['x-extproc-timestamp']}.".encode() + post.body
    assert post.headers["x-extproc-signature"] == "sha256=" + hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    assert (post.headers["x-extproc-event"], post.headers["x-extproc-delivery"]) == ("incident", "i-1")
    assert json.loads(post.body) == {"id": "i-1", "text": "\u00fc"}


def test_without_a_secret_there_is_no_signature(receiver: Receiver) -> None:
    """And nothing that looks like one."""
    send(receiver, Delivery("i-1", "incident", {}), secret=None)
    assert "x-extproc-signature" not in receiver.posts[0].headers


@pytest.mark.parametrize(
    ("statuses", "tries", "delivered"),
    [
        ([], 1, 1),
        ([500, 503], 3, 1),
        ([429, 408, 429, 500], 5, 1),
        ([400, 400], 3, 1),
        ([400, 404, 401], 3, 0),
        ([302, 302, 302], 3, 0),
        ([500] * 9, 5, 0),
    ],
)
def test_a_delivery_is_tried_again(receiver: Receiver, statuses: list[int], tries: int, delivered: int) -> None:
    """Where the receiver may take it another time; with one id for all tries."""
    receiver.statuses = list(statuses)
    hook = send(receiver, Delivery("i-1", "incident", {}))
    assert (len(receiver.posts), hook.delivered, hook.failed) == (tries, delivered, 1 - delivered)
    assert {post.headers["x-extproc-delivery"] for post in receiver.posts} == {"i-1"}


def test_nobody_waits_for_a_receiver_that_is_not_there(receiver: Receiver) -> None:
    """What there is no room for is counted."""
    hook = Webhook("http://127.0.0.1:1/", SECRET, (600.0,))
    for number in range(webhook.MOST_WAITING + 5):
        hook.send(Delivery(f"i-{number}", "incident", {}))
    assert hook.failed >= 5
    hook.close(20.0)


def test_who_waits_to_hear_of_it_hears_once_it_is_taken(receiver: Receiver) -> None:
    """So that after a restart only what was not taken is posted again."""
    taken = threading.Event()
    Webhook(receiver.url, SECRET, AT_ONCE).send(Delivery("i-1", "incident", {}), taken.set)
    assert taken.wait(150)


def test_the_secret_is_of_the_file_or_else_of_the_environment(tmp_path: Path) -> None:
    """Without the line's end, which editors add."""
    (tmp_path / "secret").write_text("a secret\n")
    environ = {webhook.SECRET_VARIABLE: "another"}
    assert webhook.secret(tmp_path / "secret", environ) == SECRET
    assert webhook.secret(None, environ) == b"another"
    assert webhook.secret(None, {}) is None


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_a_secret_that_is_none_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """Nothing goes out unsigned by mistake."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match="webhook_secret_file"):
        webhook.secret(tmp_path / "secret", {})
