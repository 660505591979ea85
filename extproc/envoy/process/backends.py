"""What becomes of the backends while Envoy serves: a line for each change of their health, and of their names.

    watch = Watch()
    for line in watch.look(await envoy.hosts(), names):
        ...

The first look tells only what is wrong. A host that has not been checked yet is neither well nor unwell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from extproc.envoy.config.names import Name

OURS: Final = "extproc"
"""The cluster of the sidecar's workers, of which others tell."""

_REASONS: Final = {
    "active_hc_timeout": "its health check gets no answer in time",
    "failed_active_health_check": "its health check fails",
    "failed_outlier_check": "ejected, as requests to it failed",
    "pending_dynamic_removal": "its name or its discovery has it no more",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """One host of a cluster as Envoy has it. `why`: what is wrong with it; empty for a healthy one, None as yet."""

    cluster: str
    address: str
    name: str
    why: str | None

    @classmethod
    def of(cls, cluster: str, status: dict[str, Any]) -> Host:
        """From an entry of `host_statuses` in Envoy's /clusters?format=json."""
        return cls(cluster, address(status), str(status.get("hostname", "")), _why(status.get("health_status", {})))

    def __str__(self) -> str:
        plain = (self.address, self.address.rpartition(":")[0], "")
        name = "" if self.name in plain else f" ({self.name})"
        return f"backend {self.address}{name} of {self.cluster}"


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A line for the operator, and whether it is bad news."""

    text: str
    bad: bool


class Watch:
    """Remembers what was told."""

    def __init__(self) -> None:
        self._unwell: dict[tuple[str, str], str] = {}
        self._lost: set[Name] = set()

    def look(self, hosts: Sequence[Host], names: Iterable[Name]) -> Iterator[Change]:
        """What has changed since the last look. `names`: those that Envoy is to resolve."""
        hosts = [host for host in hosts if host.cluster != OURS]
        yield from self._of_names({(host.cluster, host.name) for host in hosts}, set(names))
        yield from self._of_hosts(hosts)

    def _of_hosts(self, hosts: Sequence[Host]) -> Iterator[Change]:
        for host in hosts:
            key = (host.cluster, host.address)
            if host.why is None:
                continue
            if host.why and key not in self._unwell:
                yield Change(f"{host} is unhealthy: {host.why}", bad=True)
                self._unwell[key] = host.why
            elif not host.why and self._unwell.pop(key, None) is not None:
                yield Change(f"{host} is healthy again", bad=False)
        there = {(host.cluster, host.address) for host in hosts}
        self._unwell = {key: why for key, why in self._unwell.items() if key in there}

    def _of_names(self, found: set[tuple[str, str]], wanted: set[Name]) -> Iterator[Change]:
        lost = {name for name in wanted if (name.cluster, name.hostname) not in found}
        for name in sorted(lost - self._lost):
            text = "the name does not resolve, so that it gets no requests"
            yield Change(f"backend {name.address} of {name.cluster}: {text}", bad=True)
        for name in sorted(self._lost & wanted - lost):
            yield Change(f"backend {name.address} of {name.cluster}: the name resolves now", bad=False)
        self._lost = lost


def address(status: dict[str, Any]) -> str:
    """`ADDRESS:PORT` of an entry of `host_statuses`, or the path of its pipe."""
    found = status.get("address", {})
    if "pipe" in found:
        return str(found["pipe"].get("path"))
    socket = found.get("socket_address", {})
    return f"{socket.get('address')}:{socket.get('port_value')}"


def _why(status: dict[str, Any]) -> str | None:
    if status.get("pending_active_hc"):
        return None
    known = [text for name, text in _REASONS.items() if status.get(name)]
    eds = status.get("eds_health_status", "HEALTHY")
    return (known[0] if known else "") or ("" if eds in ("HEALTHY", "UNKNOWN") else f"its discovery says {eds}")
