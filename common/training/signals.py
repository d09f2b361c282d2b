"""SIGINT and SIGTERM while training or live: the first asks to stop after the current step, the second ends at once."""

import os
import signal
import time
from types import FrameType


class Stopped(Exception):
    """What was under way stopped and saved because a signal asked for it.

    Attributes:
        left: what it leaves behind, in words; empty for a training, which leaves its last checkpoint.
    """

    def __init__(self, number: int, left: str = ''):
        super().__init__(signal.Signals(number).name)
        self.exit_status, self.left = 128 + number, left


class StopRequest:
    """Note SIGINT and SIGTERM instead of ending at once: a context manager, which restores their handlers.

    The same request often comes twice at once, from a scheduler and from torchrun passing it on: what follows the first
    within a second is taken for its echo.

    Attributes:
        signal: the signal that came, 0 before one did.
    """

    signal: int = 0

    def __enter__(self) -> 'StopRequest':
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > 1:
            os._exit(128 + number)
