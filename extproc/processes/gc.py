"""Python's cycle collector, set for processes that live long and make few cycles."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def freeze_after_start() -> None:
    """Fewer passes of the cycle collector, over fewer objects. To be called when everything has been started.

    Streams and exchanges leave no cycles behind, so that a pass finds next to nothing, while its cost grows with the
    number of those that are open. What exists after the start stays for good: frozen, it is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def give_back() -> None:
    """Give memory back to the system that was needed for a while: glibc keeps what a thread has freed, by itself."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library may have no such function, and no such habit
        ctypes.CDLL(None).malloc_trim(0)
