"""One running Envoy: started on a directory of files, asked through its admin interface, stopped.

envoy = Envoy(config_directory, log)
await envoy.start()          # the process runs; the addresses are known when `state` says so
state = await envoy.state()  # what it serves, and what it is waiting for
await envoy.ended()          # how it died
await envoy.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import IO, Any, Final

from extproc.config import in_url, near_host
from extproc.envoy.config.files import ADMIN_STOPS, BOOTSTRAP
from extproc.envoy.process import binary
from extproc.envoy.process.backends import Host, address
from extproc.processes.child import Child, cause

_ADMIN_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 5.0
_TAIL_LINES: Final = 12
_TAKE_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What Envoy says of itself."""

    live: bool
    """All files are read and the listeners are open."""
    port: int
    hosts: dict[str, dict[str, bool]]
    """Of each cluster its hosts, and whether each is healthy."""
    rejected: bool
    """A version of routes.yaml or clusters.yaml was refused."""


class Envoy:
    """One Envoy process. `concurrency` 0 is Envoy's own default, a thread for each core."""

    def __init__(self, directory: Path, log: Path, concurrency: int = 0) -> None:
        self._directory = directory
        self._log = log
        self._concurrency = concurrency
        self.word = secrets.token_urlsafe(16)
        """What `files.guard_admin` has to be told, so that this Envoy can be asked to stop by us alone."""
        self._child: Child | None = None
        self._address_file = directory / "admin-address"
        self._admin: tuple[str, int] | None = None
        self._rejected = 0

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def admin_url(self) -> str:
        host, port = self._admin or ("127.0.0.1", 0)
        return f"http://{in_url(host)}:{port}"

    async def start(self) -> None:
        # Envoy writes into a file that is there, and would make one that everybody can read.
        self._address_file.unlink(missing_ok=True)
        self._address_file.touch(0o600)
        command = [
            str(binary.find()),
            *("-c", str(self._directory / BOOTSTRAP)),
            # Otherwise a misspelt field in a watched file is a warning, and 404 for everything.
            "--reject-unknown-dynamic-fields",
            # Hot restart shares memory between Envoys of a machine: a second stack would not start.
            "--disable-hot-restart",
            *("--admin-address-path", str(self._address_file)),
        ]
        if self._concurrency:
            command += ["--concurrency", str(self._concurrency)]
        with self._new_log() as log:
            self._child = await Child.start(*command, stdout=log, stderr=log)

    def _new_log(self) -> IO[bytes]:
        self._log.unlink(missing_ok=True)
        # With an access log switched on it says who asked for what.
        return open(self._log, "xb", opener=lambda path, flags: os.open(path, flags, 0o600))

    async def ended(self) -> str:
        """Wait for the end of the process; how it ended."""
        assert self._child is not None
        await self._child.ended()
        return f"Envoy has ended: {cause(self._child.code or 0)}; its log is {self._log}"

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(_STOP_SECONDS)

    async def refuse_connections(self) -> None:
        """Take no new connections, and close those that are there after what runs on them."""
        if self._child is None:
            return  # the address that stands in the file is another Envoy's
        with contextlib.suppress(OSError, http.client.HTTPException):
            for path in ADMIN_STOPS:
                await self.ask(f"{path}?{self.word}", "POST")

    async def state(self) -> State | None:
        """What Envoy serves now; None while it does not answer."""
        try:
            live = await self.ask("/ready")
            listeners = json.loads(await self.ask("/listeners?format=json"))
            clusters = json.loads(await self.ask("/clusters?format=json"))
            refusals = await self.ask("/stats?filter=update_rejected$")
        except (OSError, http.client.HTTPException, ValueError):
            return None
        return State(
            live=live.strip() == b"LIVE",
            port=_port(listeners),
            hosts={each["name"]: _hosts(each) for each in clusters.get("cluster_statuses", [])},
            rejected=re.search(rb": [1-9]", refusals) is not None,
        )

    async def hosts(self) -> list[Host] | None:
        """Every host of every cluster; None while it does not answer."""
        try:
            clusters = json.loads(await self.ask("/clusters?format=json"))
        except (OSError, http.client.HTTPException, ValueError):
            return None
        return [
            Host.of(cluster["name"], status)
            for cluster in clusters.get("cluster_statuses", [])
            for status in cluster.get("host_statuses", [])
        ]

    async def took(self, clusters: str | None, routes: str | None, *others: str) -> str | None:
        """Wait until these versions of clusters.yaml, routes.yaml and other files are served, every cluster warm.

        Returns what Envoy says when it refuses one. None also when it takes longer than is worth waiting for: a
        configuration without RDS, for one, never says what routes it has.
        """
        wanted = {version.encode() for version in (clusters, routes, *others) if version is not None}
        until = time.monotonic() + _TAKE_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                stats = await self.ask("/stats?filter=(version_text|update_rejected|warming_clusters)$")
                served = set(re.findall(rb'version_text: "(.*)"', stats))
                rejected = sum(map(int, re.findall(rb"update_rejected: ([0-9]+)", stats)))
                if rejected > self._rejected:
                    self._rejected = rejected
                    return "\n".join(f"envoy: {line}" for line in self.complaints()[-2:]) or "Envoy refuses it"
                if wanted <= served and b"warming_clusters: 0" in stats:
                    return None
            await asyncio.sleep(_POLL_SECONDS)
        return None

    async def ask(self, path: str, method: str = "GET") -> bytes:
        """One request to the admin interface."""
        return await asyncio.to_thread(self._ask, path, method)

    def _ask(self, path: str, method: str) -> bytes:
        if self._admin is None:
            text = self._address_file.read_text()
            if not text:
                raise ConnectionRefusedError("Envoy has not said yet where its admin listens")
            host, _, port = text.strip().rpartition(":")
            self._admin = (near_host(host.strip("[]")), int(port))
        connection = http.client.HTTPConnection(*self._admin, timeout=_ADMIN_SECONDS)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def complaints(self) -> list[str]:
        """The last lines of Envoy's log that are not its usual ones."""
        lines = [line for line in self._lines() if "[info]" not in line and "[debug]" not in line]
        return lines[-_TAIL_LINES:]

    def _lines(self) -> list[str]:
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - 65536))
                return log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []


def _port(listeners: Any) -> int:
    statuses = listeners.get("listener_statuses", [])
    status = next((each for each in statuses if each.get("name") == "ingress"), statuses[0] if statuses else {})
    local = status.get("local_address", {}).get("socket_address", {})
    return int(local.get("port_value", 0))


def _hosts(cluster: dict[str, Any]) -> dict[str, bool]:
    return {address(host): _healthy(host.get("health_status", {})) for host in cluster.get("host_statuses", [])}


def _healthy(status: dict[str, Any]) -> bool:
    return status.get("eds_health_status", "HEALTHY") == "HEALTHY" and not any(
        value for name, value in status.items() if name.startswith(("failed_", "pending_")) and value is True
    )
