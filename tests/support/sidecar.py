"""A sidecar within the test's process, and Envoy's part of the talk with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from support.transports import MakeServer, Running, Talk, connected

from extproc._proto.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from extproc.config import Config
from extproc.history import verify
from extproc.history.join import Exchange
from extproc.history.reader import exchanges, scan
from extproc.journal.writer import Journal
from extproc.service.health import Health
from extproc.service.processor import Recorder
from extproc.service.transport import Endpoint


class Sidecar:
    """Starts on entering; on leaving it stops and closes its journal. `end` does that early, to read the records."""

    def __init__(self, make: MakeServer, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self._stack = ExitStack()
        self._journal = Journal(directory, worker=0, boot_id="b00t", durability="write")
        self._journal.start()
        self.recorder = Recorder(dataclasses.replace(Config(), **settings), self._journal, b"k" * 32)
        health = Health({"journal": lambda: self._journal.failure is None})
        self._running = Running(make(Endpoint("127.0.0.1:0"), self.recorder.processor, self.recorder, health))

    def __enter__(self) -> Self:
        self._channel = self._stack.enter_context(connected(self._running.address))
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop the server, let every stream hear of it, close the journal."""
        self._stack.close()
        self._running.server.stop(0.0)
        self._running.join()
        self._journal.close(10.0)

    def stream(self, *metadata: tuple[str, str | bytes]) -> Talk:
        """A new ext_proc stream."""
        return Talk(self._channel, metadata)

    def tell(self, messages: Sequence[ProcessingRequest]) -> list[ProcessingResponse]:
        """A whole stream: each message, its reply, half-close, the end."""
        talk = self.stream()
        replies = [ProcessingResponse.FromString(talk.ask(message.SerializeToString())) for message in messages]
        talk.half_close()
        talk.status()
        return replies

    def records(self) -> list[dict[str, Any]]:
        """End the sidecar; the records of its exchanges, in the order of the journal."""
        self.end()
        found = [dict(line.record) for line in scan([self.directory])]
        return [record for record in found if record["type"] not in {"segment", "end"}]

    def exchanges(self) -> list[Exchange]:
        """End the sidecar; its exchanges, after checking that the journal is whole."""
        self.end()
        assert list(verify.verify(self.directory)) == []
        return list(exchanges([self.directory]))
