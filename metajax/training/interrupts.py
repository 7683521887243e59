"""Signals that end a run after the current call, with what was learned so far."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
]
"""Ctrl-C, what a scheduler sends before it takes a machine away, and a terminal that is closed."""


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first signal of `SIGNALS` sets. The second does what it usually does.

    A signal that the process ignores stays ignored.

    Python lets only the main thread handle signals. In another thread the event is never set.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        interrupted.set()
        restore()

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # What is ignored stays ignored, as SIGHUP under nohup. None was not set by Python.
    left_alone = (signal.SIG_IGN, None)
    before = {number: old for number, old in handlers.items() if old not in left_alone}
    for number in before:
        signal.signal(number, stop)
    try:
        yield interrupted
    finally:
        restore()
