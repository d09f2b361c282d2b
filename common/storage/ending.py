"""Ending on SIGTERM as on an exception, so that whatever is half-written is taken away; streams that are closed."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_STATUS = 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM came."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated where SIGTERM comes inside; training takes the signal itself meanwhile, and gives it back."""
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Held:
    """How many blocks hold SIGTERM back, and whether it came meanwhile."""

    blocks, came = 0, False


def _terminate(number: int, frame: FrameType | None) -> None:
    if not _Held.blocks:
        raise Terminated
    _Held.came = True


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Raise Terminated at the end of the block where SIGTERM comes inside: for what must not be left half-done."""
    _Held.blocks += 1
    try:
        yield
    finally:
        _Held.blocks -= 1
        if _Held.came and not _Held.blocks:
            _Held.came = False
            raise Terminated


def keep_standard_streams() -> None:
    """Open what is closed of standard input, output and error, so that no file takes its number and its output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115 - for as long as the process lives
