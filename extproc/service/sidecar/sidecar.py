"""The sidecar as a whole: its workers, the follower, and the admin port. What `serve` runs, and `up` beside Envoy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from extproc.config import Config, host_and_port, in_url, near_host
from extproc.service.sidecar import ports
from extproc.service.sidecar.admin import Admin
from extproc.service.sidecar.exposition import Exposition
from extproc.service.sidecar.follower import SHIPPER, FollowerProcess
from extproc.service.sidecar.ports import Port
from extproc.service.sidecar.workers import Workers, log_warning


class Sidecar:
    """Started, waited for and stopped as `Workers` are. The follower is last to go: it reads what the workers wrote."""

    def __init__(self, config: Config, warn: Callable[[str], None] = log_warning) -> None:
        self._config = config
        self.workers = Workers(config, warn)
        self.follower = FollowerProcess(config)
        self.shipper = None if config.ship_to is None else FollowerProcess(config, SHIPPER, name="shipper")
        self.admin_port = 0
        exposition = Exposition(
            config.data_dir, config.free_space_floor_bytes, self.workers, self.follower, self.shipper
        )
        self._admin = Admin(config.admin_host, config.admin_port, self._readiness, exposition.text)

    def reserve(self, others: Sequence[Port] = ()) -> None:
        """Hold the data directory, then see whether all ports can be had, `others` too. `stop` gives it back.

        Raises JournalError when another sidecar has the directory, and PortsInUse.
        """
        self.workers.lock()
        ports.check([*others, *self._ports()])

    def _ports(self) -> Iterator[Port]:
        config = self._config
        yield Port(config.admin_host, config.admin_port, "--admin-port")
        for worker in range(config.workers):
            address = config.address(worker)
            if not address.startswith("unix:"):
                yield Port(*host_and_port(address), "--listen")

    async def start(self) -> None:
        """Start all parts and wait until the workers listen. Raises what the first failing one said."""
        self.admin_port = await self._admin.start()
        await self.workers.start()
        await self.follower.start()
        if self.shipper is not None:
            await self.shipper.start()

    @property
    def admin_url(self) -> str:
        """Where this machine asks for health and metrics."""
        return f"http://{in_url(near_host(self._config.admin_host))}:{self.admin_port}"

    async def wait(self) -> None:
        """Until the workers have fallen over, which is raised as StackError."""
        await self.workers.wait()

    async def stop(self) -> None:
        """Stop all parts. `hurry` ends the waiting for exchanges that run."""
        await self.workers.stop()
        await self.follower.stop()
        if self.shipper is not None:
            await self.shipper.stop()
        await self._admin.stop()

    async def hurry(self) -> None:
        """Wait no longer for the exchanges that run."""
        await self.workers.stop()

    def _readiness(self) -> tuple[bool, dict[str, Any]]:
        ready, parts = self.workers.readiness()
        shipping = {} if self.shipper is None else self.shipper.readiness()
        return ready, parts | self.follower.readiness() | shipping
