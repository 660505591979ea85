"""Backends that nobody will reach: names that do not resolve on this machine, and clusters without an endpoint."""

from __future__ import annotations

import concurrent.futures
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

from extproc.envoy.config import xds
from extproc.envoy.config.files import Documents
from extproc.envoy.config.findings import Finding, Level
from extproc.envoy.config.source import get
from extproc.envoy.config.xds import Part

_LOOKUP_SECONDS: Final = 5.0
_AT_ONCE: Final = 16
_BY_NAME: Final = ("STRICT_DNS", "LOGICAL_DNS")
_DNS_CLUSTER: Final = "envoy.clusters.dns"


class Name(NamedTuple):
    """A name that Envoy is to resolve, and as what it then shows the hosts of it."""

    cluster: str
    address: str
    hostname: str


def findings(documents: Documents) -> Iterator[Finding]:
    """All are warnings: Envoy asks again and again, and where it runs the names may be others."""
    addresses = []
    for cluster in xds.clusters(documents):
        endpoints = list(_endpoints(cluster))
        if cluster.at("load_assignment").value is not None and not endpoints:
            text = f"the cluster {cluster.name} has no endpoints: what is routed to it gets a 503"
            yield Finding(Level.WARNING, cluster.at("load_assignment").place, text, cluster.path)
        if _is_by_name(cluster):
            addresses += [each.at("address", "socket_address", "address") for each in endpoints]
    names = {str(each.value) for each in addresses if isinstance(each.value, str)}
    lost = _unresolved(names)
    for address in addresses:
        if address.value in lost:
            text = f"the name {address.value} does not resolve on this machine: {lost[str(address.value)]}"
            yield address.warning(text)


def to_resolve(documents: Documents) -> set[Name]:
    """The names that Envoy is to resolve."""
    return {
        Name(str(cluster.name), str(address), str(get(each.value, "hostname") or address))
        for cluster in xds.clusters(documents)
        if _is_by_name(cluster)
        for each in _endpoints(cluster)
        if (address := get(each.value, "address", "socket_address", "address")) is not None
    }


def _is_by_name(cluster: Part) -> bool:
    return get(cluster.value, "type") in _BY_NAME or get(cluster.value, "cluster_type", "name") == _DNS_CLUSTER


def _endpoints(cluster: Part) -> Iterator[Part]:
    for locality in cluster.each("load_assignment", "endpoints"):
        for endpoint in locality.each("lb_endpoints"):
            yield endpoint.at("endpoint")


def _unresolved(names: set[str]) -> dict[str, str]:
    """The names without an address, and the resolver's reason. One that it does not tell of in time is left out."""
    pool = concurrent.futures.ThreadPoolExecutor(_AT_ONCE)
    lookups = {pool.submit(unresolved, name): name for name in names}
    done, _ = concurrent.futures.wait(lookups, _LOOKUP_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    return {lookups[each]: reason for each in done if (reason := each.result()) is not None}


def unresolved(name: str) -> str | None:
    """Why a name has no address; None when it has one."""
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        return error.strerror
    except UnicodeError:
        return "no name"
    return None
