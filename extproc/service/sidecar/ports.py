"""Whether the ports that are to be listened on can be had: all of them, before anything is started."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from extproc.errors import StackError


@dataclass(frozen=True, slots=True)
class Port:
    """A port that is wanted, and the flag or setting that names another one. 0: any free one will do."""

    host: str
    number: int
    setting: str


class PortsInUse(StackError):
    """Ports cannot be had. The text has a line for each."""

    @property
    def lines(self) -> list[str]:
        return str(self).splitlines()


def check(wanted: Iterable[Port]) -> None:
    """Raises PortsInUse for those that cannot be had, all at once; also when two are the same."""
    problems = []
    with contextlib.ExitStack() as held:
        for port in wanted:
            probe = held.enter_context(socket.socket(socket.AF_INET6 if ":" in port.host else socket.AF_INET))
            # As the servers set it: connections that are over do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port.host, port.number))
                probe.listen(1)
            except OSError as error:
                problems.append(
                    f"port {port.number} on {port.host} cannot be used: {error.strerror}; "
                    f"name another one with {port.setting}"
                )
    if problems:
        raise PortsInUse("\n".join(problems))
