"""Several series as one stream of lines, by their time.

    merge = Merge()
    merge.add(key, tail)
    for key, line in merge.lines(limit): ...    # what is there now, oldest first

A series is opened when its time has come, and not before: a journal has many. Lines that are damaged, or have no type
or no time, are passed over. Within a series the order is that of writing; a line that claims to be older than the one
before it counts as of the same time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from extproc.journal.lines import Line


class Source(Protocol):
    """The lines of one series in their order; None where there is nothing more at the moment."""

    def begins_at(self) -> str: ...
    def __iter__(self) -> Iterator[Line | None]: ...


K = TypeVar("K", bound=Hashable)


class Merge(Generic[K]):
    """The sources by their keys. Those with lines of the same time come in the order in which they were added."""

    def __init__(self) -> None:
        self._queues: dict[K, _Queue] = {}
        self._count = 0

    def add(self, key: K, source: Source) -> None:
        """One more. Nothing of it is read yet but its head."""
        self._count += 1
        self._queues[key] = _Queue(source, self._count)

    def remove(self, key: K) -> None:
        """Let go of one."""
        self._queues.pop(key, None)

    def may_have_line(self, key: K) -> bool:
        """Whether a source has a line now; one that is not open yet may have."""
        return self._queues[key].may_have()

    def lines(
        self, limit: int | None = None, within: Callable[[K, Line], bool] | None = None
    ) -> Iterator[tuple[K, Line]]:
        """What is there now, at most so many; fewer means that there is nothing more at the moment. `within`: whether a
        line is wanted yet; one that is not, and what comes after it in its source, is left for another time."""
        heap = [(queue.next_at, queue.number, key, queue) for key, queue in self._queues.items() if queue.may_have()]
        heapq.heapify(heap)
        count = 0
        while heap and count != limit:
            at, number, key, queue = heap[0]
            if not queue.look():
                heapq.heappop(heap)
            elif queue.next_at > at:
                heapq.heapreplace(heap, (queue.next_at, number, key, queue))
            elif within is not None and not within(key, queue.first()):
                heapq.heappop(heap)
            else:
                count += 1
                yield key, queue.take()


class _Queue:
    """One source, with the line that comes next."""

    def __init__(self, source: Source, number: int) -> None:
        self.number = number
        self.next_at = source.begins_at()
        """The time of the next line, or before it."""
        self._source: Iterable[Line | None] = source
        self._lines: Iterator[Line | None] | None = None
        self._next: Line | None = None

    def may_have(self) -> bool:
        """Whether it has a line now; one that is not open yet may have."""
        return self._lines is None or self.look()

    def look(self) -> bool:
        """Whether there is a line now."""
        if self._lines is None:
            self._lines = iter(self._source)
        while self._next is None:
            line = next(self._lines, None)
            if line is None:
                return False
            if line.damage is None and line.typed.type and line.typed.at:
                self._next = line
                self.next_at = max(self.next_at, line.typed.at)
        return True

    def first(self) -> Line:
        """The next line, which stays."""
        assert self._next is not None
        return self._next

    def take(self) -> Line:
        """The next line."""
        line, self._next = self.first(), None
        return line
