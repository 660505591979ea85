"""Envoy's own word on a configuration: whether it can read it, and what it has read."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from extproc.envoy.process import binary

_UNREADABLE: Final = ("Unable to parse JSON as proto", "has unknown fields", "yaml-cpp")
_PATIENCE_SECONDS: Final = 90.0


def unreadable(text: str, directory: Path, name: str = "envoy.yaml") -> str | None:
    """Why Envoy's parser cannot read a bootstrap; None when it can, whatever Envoy has against what it says."""
    said = refusal(text, directory, name)
    return said if said is not None and any(each in said for each in _UNREADABLE) else None


def refusal(text: str, directory: Path, name: str = "envoy.yaml") -> str | None:
    """What Envoy has against a bootstrap; None when it would start on it."""
    file = directory / name
    file.write_text(text, encoding="utf-8")
    command = (binary.find(), "--mode", "validate", "--reject-unknown-dynamic-fields", "--concurrency", "1", "-c", file)
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, timeout=60)
    return None if done.returncode == 0 else done.stderr


def has_read(text: str, directory: Path) -> dict[str, Any]:
    """A bootstrap as a running Envoy has read it, in the form of its /config_dump.

    The text must not have an `admin` of its own."""
    with admin_of(text, directory) as url, urllib.request.urlopen(f"{url}/config_dump") as answer:
        dump: dict[str, Any] = json.load(answer)["configs"][0]["bootstrap"]
    return dump


@contextlib.contextmanager
def admin_of(text: str, directory: Path) -> Iterator[str]:
    """An Envoy on this bootstrap; the URL of its admin interface."""
    directory.mkdir(exist_ok=True)
    file, address = directory / "envoy.yaml", directory / "admin-address"
    address.unlink(missing_ok=True)
    admin = 'admin: {address: {socket_address: {address: "127.0.0.1", port_value: 0}}}\n'
    file.write_text(admin + text, encoding="utf-8")
    flags = ("--disable-hot-restart", "--concurrency", "1", "--admin-address-path", str(address))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([str(binary.find()), "-c", str(file), *flags], stdout=log, stderr=log)
    try:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not (address.exists() and address.read_text()):
            assert process.poll() is None, (directory / "log").read_text()[-3000:]
            assert time.monotonic() < until, "Envoy does not come up"
            time.sleep(0.01)
        yield f"http://{address.read_text().strip()}"
    finally:
        process.kill()
        process.wait()
