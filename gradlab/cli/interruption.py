"""Ctrl-C as a question: whether to end after the segment that runs."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

INTERRUPTED = "interrupted"  # how such a run ended


@contextlib.contextmanager
def control_c() -> Iterator[Callable[[], bool]]:
    """Yields what says whether Ctrl-C was pressed; pressed a second time it interrupts at once."""
    pressed = False

    def press(*_: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
