"""The signals that end a program in order."""

from __future__ import annotations

import signal


def ending() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP, the end of the terminal; not SIGHUP where `nohup` has it ignored."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
