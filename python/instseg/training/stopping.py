# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM as requests that the training loop honours between iterations."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# torchrun passes Ctrl-C on to workers that got it from the terminal already (s).
_ECHO = 2.0


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a request; another SIGINT two seconds later ends at once."""

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._since = True, now
        elif number == signal.SIGINT and now - self._since > _ECHO:
            raise KeyboardInterrupt
